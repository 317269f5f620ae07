// Who is signed in: keeps the session token in memory and renews it by the HttpOnly refresh cookie.
// Never: a token in storage, a URL or a log; never two refreshes at the same time (the cookie rotates).

import { Problem, problemFrom, unreachable } from './problem';
import type { LogInBody, SignedIn, SignUpBody, User } from './types';

/** Renew this long before the end, so that a slow request does not carry a dead token. */
export const RENEW_BEFORE_MS = 30_000;

export type SessionState =
  { status: 'unknown' } | { status: 'offline' } | { status: 'signed-out'; erased?: boolean } | { status: 'signed-in'; user: User };

export interface SessionParts {
  fetch: typeof fetch;
  now: () => number;
}

export class Session {
  private state: SessionState = { status: 'unknown' };
  private held: { token: string; expiresAt: number } | null = null;
  private refreshing: Promise<void> | null = null;
  private readonly listeners = new Set<() => void>();

  constructor(private readonly parts: SessionParts) {}

  readonly get = (): SessionState => this.state;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Finds out, at the start of the page, whether the cookie still stands for somebody. */
  async restore(): Promise<void> {
    try {
      await this.refresh();
    } catch {
      if (this.state.status === 'unknown') this.become({ status: 'offline' });
    }
  }

  async signUp(body: SignUpBody): Promise<void> {
    this.take(await this.post('/api/auth/signup', body));
  }

  async logIn(body: LogInBody): Promise<void> {
    this.take(await this.post('/api/auth/login', body));
  }

  /** Asks for a mail with a link that logs in; the page behind it is the server's own. */
  async mailLink(email: string): Promise<void> {
    await this.post('/api/auth/magic-link', { email });
  }

  async logOut(): Promise<void> {
    await this.post('/api/auth/logout', undefined, this.held?.token);
    this.forget();
  }

  /** The account is gone, and the server has ended its sessions by itself: there is nothing to tell it. */
  erased(): void {
    this.held = null;
    this.become({ status: 'signed-out', erased: true });
  }

  /** A new name or e-mail address, as the server confirmed it. */
  update(user: User): void {
    if (this.state.status === 'signed-in') this.become({ status: 'signed-in', user });
  }

  /** A token that is good for a while yet, or none when nobody is signed in. Throws when the server is away. */
  async token(): Promise<string | null> {
    const { held } = this;
    if (held && held.expiresAt - this.parts.now() > RENEW_BEFORE_MS) return held.token;
    if (this.state.status === 'signed-out') return null;
    await this.refresh();
    return this.held?.token ?? null;
  }

  /** The server refused `token`: renew, unless somebody already did. */
  async renew(token: string): Promise<string | null> {
    if (this.held?.token === token) this.held = null;
    return this.token();
  }

  private refresh(): Promise<void> {
    this.refreshing ??= this.refreshOnce().finally(() => {
      this.refreshing = null;
    });
    return this.refreshing;
  }

  private async refreshOnce(): Promise<void> {
    try {
      this.take(await this.post('/api/auth/refresh'));
    } catch (error) {
      const refused = error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429;
      if (!refused) throw error;
      this.forget();
    }
  }

  private async post(path: string, body?: unknown, token?: string): Promise<SignedIn> {
    const headers: Record<string, string> = { accept: 'application/json' };
    if (body !== undefined) headers['content-type'] = 'application/json';
    if (token) headers.authorization = `Bearer ${token}`;
    const request = { method: 'POST', credentials: 'same-origin' as const, headers, body: body && JSON.stringify(body) };
    const answer = await this.parts.fetch(path, request as RequestInit).catch(() => Promise.reject(unreachable()));
    if (!answer.ok) throw await problemFrom(answer);
    return answer.status === 204 ? ({} as SignedIn) : ((await answer.json().catch(() => ({}))) as SignedIn);
  }

  private take(signedIn: SignedIn): void {
    this.held = { token: signedIn.token, expiresAt: Date.parse(signedIn.expires_at) };
    this.become({ status: 'signed-in', user: signedIn.user });
  }

  private forget(): void {
    this.held = null;
    this.become({ status: 'signed-out' });
  }

  private become(state: SessionState): void {
    this.state = state;
    for (const listener of this.listeners) listener();
  }
}
