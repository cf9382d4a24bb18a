// What applications import.
export type { Outcome, RecoveryData, SendOptions } from "./client.js";
export type { DeviceKeys, Verification } from "./devices.js";
export { MimiportError } from "./errors.js";
export type { Claimed, Migrated, MovedInfo, Signed } from "./ds.js";
export type { Device, Leaf, Position, State, Step, VerifyLeaf } from "./group.js";
export { login, MatrixError, register, withToken } from "./matrix.js";
export { Conversation, type Events, type Member, Mimiport, type Move, type Options } from "./mimiport.js";
export { MemoryStore, type Store, type Value } from "./store.js";
export { FetchTransport, type MatrixEvent, type News, type Session, type Transport } from "./transport.js";
