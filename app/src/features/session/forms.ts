// Where a Problem of sign-up and log-in belongs: beside a field, or above the form.
// Never: a word about which of e-mail and password was wrong, unless the server says so.

import { Problem, sentence } from '../../api/problem';

export type AuthField = 'name' | 'email' | 'password' | 'invite';
export interface FormFault {
  field: AuthField | null;
  text: string;
}

const FIELDS: readonly AuthField[] = ['name', 'email', 'password', 'invite'];

export function faultOf(error: unknown): FormFault {
  const text = sentence(error);
  if (!(error instanceof Problem)) return { field: null, text };
  const named = FIELDS.find((field) => error.field === field || error.field === `/${field}`);
  return { field: named ?? FIELDS.find((field) => error.code.includes(field)) ?? null, text };
}

/** The server's rule; said here at once, so that nobody waits to hear it. */
const PASSWORD_CHARACTERS_MIN = 10;

/** What can be said before the server is asked. The server holds the real rules. */
export function missingIn(form: { email: string; password: string; name?: string }): FormFault | null {
  if (form.name !== undefined && !form.name.trim()) return { field: 'name', text: 'Tell us what to call you.' };
  if (!/^\S+@\S+$/.test(form.email.trim())) return { field: 'email', text: 'This does not look like an e-mail address.' };
  if (!form.password) return { field: 'password', text: 'A password is needed.' };
  if (form.name !== undefined && [...form.password].length < PASSWORD_CHARACTERS_MIN) {
    return { field: 'password', text: `Take at least ${PASSWORD_CHARACTERS_MIN} characters: a few words are easy to remember.` };
  }
  return null;
}

/** Where to go after logging in: only a path of this site. */
export function nextPath(next: string | undefined): string | null {
  return next && /^\/(?![/\\])[\w\-./?=&%~]*$/.test(next) ? next : null;
}
