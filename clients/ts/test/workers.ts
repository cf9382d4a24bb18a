// The Workers of a page, on Node.
import { Worker as Thread } from "node:worker_threads";

/** Gives a thread what the program of a page's Worker expects, and loads it. */
const program = (url: URL) => `
  const { parentPort } = require("node:worker_threads");
  globalThis.postMessage = (data) => parentPort.postMessage(data);
  globalThis.addEventListener = (_, listener) => parentPort.on("message", (data) => listener({ data }));
  import(${JSON.stringify(url.href)});
`;

/** As much of a page's Worker as the client uses. */
export class NodeWorker {
  static made: NodeWorker[] = [];
  onmessage: (event: { data: unknown }) => void = () => undefined;
  onerror: (event: { preventDefault(): void }) => void = () => undefined;
  isOver = false;
  task: unknown;
  private readonly thread: Thread;

  constructor(url: URL) {
    NodeWorker.made.push(this);
    this.thread = new Thread(program(url), { eval: true });
    this.thread.on("message", (data) => this.onmessage({ data }));
    this.thread.on("error", () => this.onerror({ preventDefault: () => undefined }));
  }

  postMessage(task: unknown): void {
    this.task = task;
    this.thread.postMessage(task);
  }

  terminate(): void {
    this.isOver = true;
    void this.thread.terminate();
  }
}
