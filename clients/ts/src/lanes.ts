// Runs the steps of each group one after another, and those of different groups beside each other.

/** The lanes of groups, by their ids in base64url. */
export class Lanes {
  private readonly last = new Map<string, Promise<unknown>>();
  private readonly waiting = new Map<string, number>();

  /** after runs at the end of each step, also of one that has failed. It keeps what the step has changed. */
  constructor(private readonly after: (key: string) => Promise<void>) {}

  /** Runs a step after those before it, so that its view of the group stays true until it ends. */
  run<T>(key: string, step: () => Promise<T>): Promise<T> {
    const whole = async () => {
      try {
        return await step();
      } finally {
        await this.after(key);
      }
    };
    this.count(key, 1);
    const run = (this.last.get(key) ?? Promise.resolve()).then(whole).finally(() => this.count(key, -1));
    this.last.set(
      key,
      run.catch(() => undefined),
    );
    return run;
  }

  /** How many steps of a group run or wait. */
  load(key: string): number {
    return this.waiting.get(key) ?? 0;
  }

  private count(key: string, by: number): void {
    const n = this.load(key) + by;
    this.waiting.set(key, n);
    if (n > 0) return;
    this.waiting.delete(key);
    this.last.delete(key);
  }
}
