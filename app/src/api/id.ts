// Ids that this side makes up, so that what is sent twice is taken once.
// Never: crypto.randomUUID, which exists only on secure origins; a phone on the local network is none.

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
