// Where a link in an answer leads: to a page of this app, or out.
// Never: a page of this app for an address that only looks like ours.

const LOOPBACK = new Set(['localhost', '127.0.0.1', '[::1]']);

/** The path inside the app of a link to this installation's own `/app`, or null for any other. On one's own machine its
 *  three names count as one. */
export function appPath(href: string, here: string): string | null {
  const [to, from] = [parsed(href), parsed(here)];
  if (!to || !from || to.protocol !== from.protocol || to.port !== from.port || to.username || to.password) return null;
  const same = to.hostname === from.hostname || (LOOPBACK.has(to.hostname) && LOOPBACK.has(from.hostname));
  const path = /^\/app(\/.*)?$/.exec(to.pathname);
  return same && path ? `${path[1] ?? '/'}${to.search}` : null;
}

function parsed(address: string): URL | null {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}
