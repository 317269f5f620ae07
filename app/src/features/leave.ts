// Ways out of the app: another page of this server, another site, a file, the end of the session.

import { Linking } from 'react-native';
import { session } from '@/api/client';
import { clearOutboxes } from './chat/store';
import { queryClient } from './queries';

/** A page of this server outside the app, such as the payments page. */
export function goTo(url: string): void {
  window.location.assign(url);
}

/** Somebody else's page, in a new tab that cannot reach back into this one. */
export function openOutside(href: string): void {
  if (typeof window !== 'undefined' && window.open) window.open(href, '_blank', 'noopener,noreferrer');
  else void Linking.openURL(href);
}

export function saveFile(name: string, content: unknown): void {
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2)], { type: 'application/json' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}

export async function logOut(): Promise<void> {
  await session.logOut();
  queryClient.clear();
  clearOutboxes();
}
