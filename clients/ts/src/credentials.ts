// The device that a leaf names.
import type { AuthenticationService, Credential } from "ts-mls";
import { decode, leafIdentity, type LeafIdentity } from "./wire.js";

/** The device that a basic credential names; undefined for any other credential. */
export function identityOf(credential: Credential): LeafIdentity | undefined {
  try {
    return credential.credentialType === "basic" ? decode(leafIdentity, credential.identity) : undefined;
  } catch {
    return undefined;
  }
}

/** Accepts the credentials that name a device. Whether a leaf is its device's is a question for Matrix. */
export const authService: AuthenticationService = {
  validateCredential: async (credential) => identityOf(credential) !== undefined,
};
