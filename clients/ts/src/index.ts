// What applications import.
export type { Outcome, SendOptions } from "./client.js";
export type { DeviceKeys, Verification } from "./devices.js";
export { MimiportError } from "./errors.js";
export type { Device, Position, State, Step } from "./group.js";
export { login, type MatrixEvent, register, type Session, withToken } from "./matrix.js";
export { Conversation, type Events, type Member, Mimiport, type Move, type News, type Options } from "./mimiport.js";
export { MemoryStore, type Store, type Value } from "./store.js";
