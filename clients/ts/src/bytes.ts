// Bytes, without anything that only Node has.
import { sha256 as hash } from "@noble/hashes/sha2.js";

export { bytesToHex as toHex, concatBytes as concat, randomBytes } from "@noble/hashes/utils.js";

/** SHA-256, 32 bytes. */
export const sha256 = (b: Uint8Array): Uint8Array => hash(b);

export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

/** The text of UTF-8 bytes. A byte order mark stays, and bytes that are not UTF-8 become U+FFFD. */
export const textOf = (b: Uint8Array): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(b);

/** Orders by the first byte that differs, and a prefix before what goes on: negative, 0 or positive. */
export function compare(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length && i < b.length; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return a.length - b.length;
}

export const same = (a: Uint8Array, b: Uint8Array): boolean => compare(a, b) === 0;
