// Lineages: the hosts of a group since its creation, as servers tell them (profile, sections 3 and 10).
import { same } from "./bytes.js";
import type { Claimed, Migrated } from "./ds.js";
import type { Group } from "./group.js";
import {
  decode,
  fromBase64,
  lineage,
  type Lineage,
  lineageClaim,
  type LineageStep,
  migrationConfirmation,
} from "./wire.js";
import { RECOVER, toBase64 } from "./wire.js";

/** The claim in a step as a redirect; undefined for no step, or another kind. */
export function claimIn(step: LineageStep | undefined): Claimed | undefined {
  if (step === undefined || !("lineageClaim" in step)) return undefined;
  const { message, keyId } = step.lineageClaim;
  const { domainName, term } = decode(lineageClaim, message);
  return { delivery_service: domainName, term: Number(term), lineage_claim: toBase64(message), key_id: keyId };
}

/** Whether a claim is a recover, rather than a reclaim. */
export const isRecover = ({ lineage_claim }: Claimed): boolean =>
  decode(lineageClaim, fromBase64(lineage_claim)).kind === RECOVER;

/** The move in a step as a redirect to the term that it began; undefined for no step, or another kind. */
export function moveIn(step: LineageStep | undefined, term: number): Migrated | undefined {
  if (step === undefined || "lineageClaim" in step) return undefined;
  const { migrationResponse: offer, migrationConfirmation: decision } = step;
  return {
    delivery_service: decode(migrationConfirmation, decision.message).domainName,
    term,
    migration_response: toBase64(offer.message),
    migration_confirmation: toBase64(decision.message),
    key_id: decision.keyId,
  };
}

/** The Delivery Service of a term, which the lineage must reach. */
export function hostIn({ creatingServer, steps }: Lineage, term: number): string {
  const step = steps[term - 1];
  if (step === undefined) return creatingServer;
  if ("lineageClaim" in step) return decode(lineageClaim, step.lineageClaim.message).domainName;
  return decode(migrationConfirmation, step.migrationConfirmation.message).domainName;
}

/** The id of a key of the current Delivery Service; undefined if no step and no receipt has told one. */
export function keyIdOfHost({ term, lineage: told, receipt }: Group): string | undefined {
  const step = told === undefined ? undefined : decode(lineage, fromBase64(told)).steps[term - 1];
  if (step === undefined) return term === 0 ? receipt?.key_id : undefined;
  return "lineageClaim" in step ? step.lineageClaim.keyId : step.migrationResponse.keyId;
}

/** Identifies the step of a proof. A new signature with a newer key does not make another step. */
const proof = (step: LineageStep): Uint8Array =>
  "lineageClaim" in step ? step.lineageClaim.message : step.migrationResponse.message;

const begins = (known: Lineage, told: Lineage): boolean =>
  known.creatingServer === told.creatingServer &&
  known.steps.length <= told.steps.length &&
  known.steps.every((step, i) => same(proof(step), proof(told.steps[i]!)));

/**
 * Whether a lineage begins with the lineage that the client knows for its group, up to the host of the client's term.
 */
export function goesOn(g: Group, told: Lineage): boolean {
  if (told.steps.length < g.term || hostIn(told, g.term) !== g.ds) return false;
  return g.lineage === undefined || begins(decode(lineage, fromBase64(g.lineage)), told);
}
