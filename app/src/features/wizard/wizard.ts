// The three questions, and when their answers are enough.
// Never: a rule that the server does not also hold.

import type { Vertical } from '../../api/types';

/** The server's limit for a bot's name. */
export const NAME_CHARACTERS_MAX = 40;

export interface Answers {
  vertical: Vertical | null;
  name: string;
  timezone: string;
}

export const STEPS = ['vertical', 'name', 'timezone'] as const;
export type WizardStep = (typeof STEPS)[number];

/** Why one cannot go on from this step, or null. */
export function missing(step: WizardStep, answers: Answers): string | null {
  if (step === 'vertical') return answers.vertical ? null : 'Choose one. You can ask for anything later.';
  if (step === 'timezone') return answers.timezone ? null : 'Choose a time zone.';
  const name = answers.name.trim();
  if (!name) return 'Give your assistant a name.';
  return [...name].length > NAME_CHARACTERS_MAX ? `A name has at most ${NAME_CHARACTERS_MAX} characters.` : null;
}
