// Checks the signatures of servers with their current keys (profile, section 2).
import { same } from "./bytes.js";
import type { Claimed, Migrated, Signed } from "./ds.js";
import type { Group, OwnMigration } from "./group.js";
import type { KeyObject, ServerKeys } from "./keys.js";
import { type CommitReceipt, commitReceipt, decode, fromBase64, lineageClaim, migrationAbort } from "./wire.js";
import { migrationConfirmation, migrationResponse } from "./wire.js";
import { signedContent, type Signature, type SignedCodec, toBase64url } from "./wire.js";

export class Evidence {
  constructor(private readonly keys: ServerKeys) {}

  /** Whether a server signed a message about a group, with a current key or with a key of the kept object. */
  signedBy<T>(
    { ds }: Group,
    server: string,
    keyId: string,
    codec: SignedCodec<T>,
    message: T & Signature,
    kept?: KeyObject,
  ): Promise<boolean> {
    const { signature } = message;
    return this.keys.verify({ server, keyId, text: signedContent(codec, message), signature }, ds, kept);
  }

  /** Whether a redirect proves a step of the group from the current Delivery Service. */
  async provesMove(g: Group, moved: Migrated): Promise<boolean> {
    const signed = { message: moved.migration_confirmation, key_id: moved.key_id };
    const step = { source: g.ds, target: moved.delivery_service, response: fromBase64(moved.migration_response) };
    return this.confirms(g, step, signed);
  }

  /** Whether a redirect proves that the server that it names takes this group in this term. */
  async provesClaim(g: Group, moved: Claimed): Promise<boolean> {
    const claim = decode(lineageClaim, fromBase64(moved.lineage_claim));
    const fits =
      claim.domainName === moved.delivery_service && Number(claim.term) === moved.term && same(claim.groupId, g.id);
    return fits && this.signedBy(g, claim.domainName, moved.key_id, lineageClaim, claim);
  }

  /** Whether the current Delivery Service signed a receipt. A receipt that cannot be checked counts as none. */
  attests(g: Group, receipt: CommitReceipt, keyId: string): Promise<boolean> {
    return this.signedBy(g, g.ds, keyId, commitReceipt, receipt).catch(() => false);
  }

  /**
   * Whether the source signed a MigrationConfirmation for this group, this offer and this target. The source's key may
   * be a kept one, for a client that was offline when the source was lost.
   */
  async confirms(
    g: Group,
    step: Pick<OwnMigration, "source" | "target" | "response">,
    signed: Signed,
  ): Promise<boolean> {
    const { migrationRequest: request, nonce } = decode(migrationResponse, step.response);
    const confirmation = decode(migrationConfirmation, fromBase64(signed.message));
    const fits =
      request.sourceDomainName === step.source &&
      request.targetDomainName === step.target &&
      confirmation.domainName === step.target &&
      same(request.groupId, g.id) &&
      same(confirmation.groupId, g.id) &&
      same(confirmation.nonce, nonce);
    const kept = g.hostKeys?.server_name === step.source ? g.hostKeys : undefined;
    return fits && this.signedBy(g, step.source, signed.key_id, migrationConfirmation, confirmation, kept);
  }

  /** Whether the source signed a MigrationAbort for this migration. */
  async aborts(g: Group, m: OwnMigration, signed: Signed): Promise<boolean> {
    const abort = decode(migrationAbort, fromBase64(signed.message));
    const fits = toBase64url(abort.migrationId) === m.id && abort.sourceDomain === m.source;
    return fits && this.signedBy(g, m.source, signed.key_id, migrationAbort, abort);
  }
}
