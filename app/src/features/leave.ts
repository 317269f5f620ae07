// Ways out of the app: another page of this server, another site, a file, the end of the session.

import { router, type Href } from 'expo-router';
import { Linking, type GestureResponderEvent } from 'react-native';
import { api, session } from '@/api/client';
import { clearOutboxes } from './chat/store';
import { appPath } from './links';
import { queryClient } from './queries';

/** A page of this server outside the app, such as the payments page. */
export function goTo(url: string): void {
  window.location.assign(url);
}

/** A link of an answer was pressed. Pages of this app open here; a browser opens everything else by itself, in a new tab. */
export function follow(href: string, press: GestureResponderEvent): void {
  if (typeof document === 'undefined') return void Linking.openURL(href);
  const { ctrlKey, metaKey } = press.nativeEvent as unknown as MouseEvent;
  const path = appPath(href, window.location.href);
  if (!path || ctrlKey || metaKey) return;
  press.preventDefault();
  router.push(path as Href);
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
  leaveNothing();
}

/** Asks for the person to be erased; the server ends every log-in of theirs at once. */
export async function eraseMe(): Promise<void> {
  await api.eraseMe();
  session.erased();
  leaveNothing();
}

function leaveNothing(): void {
  queryClient.clear();
  clearOutboxes();
}
