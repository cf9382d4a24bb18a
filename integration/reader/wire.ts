// The TLS presentation language with the vectors of RFC 9420, section 2.1.2. A codec reads and writes values of a type.

/** A refusal with a code of the profile, section 11. */
export class Refused extends Error {
  constructor(
    readonly code: string,
    why: string,
    readonly rule?: string,
  ) {
    super(why);
  }
}

export function require(ok: unknown, code: string, why: string, rule?: string): asserts ok {
  if (!ok) throw new Refused(code, rule === undefined ? why : `${rule}: ${why}`, rule);
}

const wellFormed = (ok: unknown, why: string) => require(ok, "M_BAD_MESSAGE", why);

export const concat = (...parts: Uint8Array[]): Uint8Array => Buffer.concat(parts);
export const equal = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

export class Reader {
  at = 0;
  constructor(readonly data: Uint8Array) {}
  take(n: number): Uint8Array {
    wellFormed(this.at + n <= this.data.length, "too few bytes");
    this.at += n;
    return this.data.subarray(this.at - n, this.at);
  }
  number(bytes: number): number {
    let n = 0;
    for (const b of this.take(bytes)) n = n * 256 + b;
    return n;
  }
  length(): number {
    const first = this.number(1);
    const more = [0, 1, 3][first >> 6];
    wellFormed(more !== undefined, "a length with the prefix 0b11");
    const n = (first & 0x3f) * 256 ** more! + this.number(more!);
    wellFormed(more === 0 || n >= [64, 16384][more! >> 1]!, "a length not in its fewest bytes");
    return n;
  }
  get empty(): boolean {
    return this.at === this.data.length;
  }
}

export interface Codec<T> {
  read(r: Reader): T;
  write(v: T): Uint8Array;
}

export type Of<C> = C extends Codec<infer T> ? T : never;

export function decode<T>(c: Codec<T>, data: Uint8Array): T {
  const r = new Reader(data);
  const v = c.read(r);
  wellFormed(r.empty, "bytes after the end");
  return v;
}

const number = (bytes: number): Codec<number> => ({
  read: (r) => r.number(bytes),
  write: (v) => {
    const out = Buffer.alloc(bytes);
    out.writeUIntBE(v, 0, bytes);
    return out;
  },
});
export const u8 = number(1);
export const u16 = number(2);
export const u32 = number(4);

/** A number of 64 bits. */
export const long: Codec<bigint> = {
  read: (r) => (BigInt(r.number(4)) << 32n) | BigInt(r.number(4)),
  write: (v) => {
    const out = Buffer.alloc(8);
    out.writeBigUInt64BE(v);
    return out;
  },
};

/** An epoch, a term or a number of the profile: below 2^63. */
export const u64 = checked(long, (v) => v < 1n << 63n, "2^63 or more");

/** n bytes without a length. */
export const fixed = (n: number): Codec<Uint8Array> => ({ read: (r) => r.take(n), write: (v) => v });

/** opaque x<V>. */
export const bytes: Codec<Uint8Array> = { read: (r) => r.take(r.length()), write: (v) => concat(lengthOf(v), v) };

function lengthOf(v: Uint8Array): Uint8Array {
  const n = v.length;
  if (n < 64) return u8.write(n);
  return n < 16384 ? u16.write(0x4000 + n) : u32.write(0x80000000 + n);
}

/** A codec that refuses some values. */
export function checked<T>(c: Codec<T>, ok: (v: T) => boolean, why: string): Codec<T> {
  return {
    read: (r) => {
      const v = c.read(r);
      wellFormed(ok(v), why);
      return v;
    },
    write: c.write,
  };
}

export const message = checked(bytes, (v) => v.length > 0, "an empty message");
export const digest = checked(bytes, (v) => v.length === 32, "not 32 bytes");

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A text, which is UTF-8. */
export const text: Codec<string> = {
  read: (r) => {
    try {
      return utf8.decode(bytes.read(r));
    } catch {
      throw new Refused("M_BAD_MESSAGE", "a text that is not UTF-8");
    }
  },
  write: (v) => bytes.write(new TextEncoder().encode(v)),
};
export const name = checked(text, (v) => v !== "", "an empty text");

/** T x<V>, of at most 65,535 elements. */
export const list = <T>(c: Codec<T>): Codec<T[]> => ({
  read: (r) => {
    const inner = new Reader(bytes.read(r));
    const out: T[] = [];
    while (!inner.empty) {
      wellFormed(out.length < 65535, "more than 65,535 elements");
      out.push(c.read(inner));
    }
    return out;
  },
  write: (v) => bytes.write(concat(...v.map(c.write))),
});

export const optional = <T>(c: Codec<T>): Codec<T | null> => ({
  read: (r) => {
    const present = u8.read(r);
    wellFormed(present <= 1, "a presence octet above 1");
    return present ? c.read(r) : null;
  },
  write: (v) => (v === null ? u8.write(0) : concat(u8.write(1), c.write(v))),
});

type Fields = Record<string, Codec<any>>;
type Struct<F extends Fields> = { [K in keyof F]: Of<F[K]> };

/** A struct: its fields in their order. */
export const struct = <F extends Fields>(fields: F): Codec<Struct<F>> => ({
  read: (r) => Object.fromEntries(Object.entries(fields).map(([k, c]) => [k, c.read(r)])) as Struct<F>,
  write: (v) => concat(...Object.entries(fields).map(([k, c]) => c.write(v[k]))),
});

/** A struct whose other fields depend on the first one, a number. */
export function select<K extends string>(
  key: K,
  tag: Codec<number>,
  cases: Record<number, Codec<any>>,
  unknown = "M_BAD_MESSAGE",
): Codec<Record<K, number> & Record<string, any>> {
  const of = (kind: number): Codec<any> => {
    require(cases[kind], unknown, `${key} ${kind}`);
    return cases[kind]!;
  };
  return {
    read: (r) => {
      const kind = tag.read(r);
      return { [key]: kind, ...of(kind).read(r) };
    },
    write: (v) => concat(tag.write(v[key]), of(v[key]).write(v)),
  };
}
