// The room's pointer: the place of the group, and the claim that the room supports (profile, sections 7 and 12).
import { sha256 } from "./bytes.js";
import type { Claimed } from "./ds.js";
import { decode, fromBase64, lineageClaim, toBase64 } from "./wire.js";

/** The content of the pointer event. Only the fields that this client compares are checked. */
export interface Pointer {
  room_id: string;
  group_id: string;
  via: string;
  term: number;
  epoch: number;
  claim_hash?: string;
  migration_id?: string;
  evidence?: any;
}

/** A claim that a room's pointer names, and until when the host may yield to it, in milliseconds since 1970. */
export interface Named {
  /** The place that the pointer names: the server that claimed the group, or a later host. */
  server: string;
  hash: string;
  until: number;
}

/** The pointer in a room's state. It counts for one group in one room: a room upgrade may copy it. */
export function pointerTo(content: any, roomId: string, groupId: string): Pointer | undefined {
  const { room_id, group_id, via, term } = content ?? {};
  const fits = room_id === roomId && group_id === groupId && typeof via === "string" && Number.isSafeInteger(term);
  return fits ? content : undefined;
}

/** The hash by which a pointer names a claim: SHA-256 of the LineageClaim. */
export const claimHash = ({ lineage_claim }: Claimed): string =>
  toBase64(sha256(fromBase64(lineage_claim)));

/** The pointer that supports a claim. */
export function pointerFor(claim: Claimed, roomId: string, groupId: string): Pointer {
  const { epoch } = decode(lineageClaim, fromBase64(claim.lineage_claim));
  const { delivery_service: via, term } = claim;
  const of = { room_id: roomId, group_id: groupId };
  return { ...of, via, term, epoch: Number(epoch), claim_hash: claimHash(claim) };
}
