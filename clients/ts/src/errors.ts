// The errors that an application can act on.

/** An error with a code, which does not change, and whether the same call may succeed later. */
export class MimiportError extends Error {
  override name = "MimiportError";

  constructor(
    readonly code: string,
    message: string,
    readonly retryable = false,
  ) {
    super(message);
  }
}
