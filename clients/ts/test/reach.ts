// How clients under test find the homeservers of Delivery Services, which are all at one address.

/** Makes fetch find each server with a name of example, by its host's /.well-known, below its name at an address. */
export function reach(address: string): void {
  const fetch = globalThis.fetch;
  globalThis.fetch = async (asked, init) => {
    const { host, pathname } = new URL(String(asked));
    if (!host.endsWith(".example")) return fetch(asked, init);
    if (pathname !== "/.well-known/matrix/client") throw new TypeError("there is no such host");
    return fetch(`${address}/${host}${pathname}`, init);
  };
}

// A driver is a process of its own, which node lets begin with this module.
if (process.env.MIMI_SERVICES !== undefined) reach(process.env.MIMI_SERVICES);
