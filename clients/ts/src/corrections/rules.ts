// The helpers that all corrections share.

/** Thrown for a message that breaks RFC 9420. */
export class MlsRuleError extends Error {
  override name = "MlsRuleError";
}

/** Throws an MlsRuleError unless a rule is kept. */
export function must(ok: boolean, rule: string): asserts ok {
  if (!ok) throw new MlsRuleError(rule);
}
