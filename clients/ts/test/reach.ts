// How clients under test find the homeservers of Delivery Services, which are all at one address.

/** fetch for a world in which each server with a name of example is at an address, below its name. */
export const reach =
  (address: string): typeof fetch =>
  (asked, init) => {
    const { host, pathname, search } = new URL(String(asked));
    const url = host.endsWith(".example") ? `${address}/${host}${pathname}${search}` : asked;
    return globalFetch(url, init);
  };

const globalFetch = globalThis.fetch;

// A driver is a process of its own, which node lets begin with this module.
if (process.env.MIMI_SERVICES !== undefined) globalThis.fetch = reach(process.env.MIMI_SERVICES);
