// The shapes of the API that the app uses, under short names. They come from openapi.json (`npm run api`).
// Never: a shape of our own; what is missing here is missing there.

import type { components } from './schema';

type Schemas = components['schemas'];

export type ClientConfig = Schemas['ClientConfig'];
export type User = Schemas['Me'];
export type SignedIn = Schemas['LoggedIn'];
export type SignUpBody = Schemas['SignUpBody'];
export type LogInBody = Schemas['LogInBody'];
export type MeChanges = Schemas['MeChanges'];

export type Bot = Schemas['BotView'];
export type NewBot = Schemas['NewBotBody'];
export type Settings = Schemas['Settings'];
export type Step = Schemas['StepView'];
export type Vertical = Schemas['Vertical'];
export type Personality = Schemas['Personality'];
export type Revision = Schemas['Revision'];
export type Model = Schemas['ModelView'];

export type Egress = Schemas['EgressView'];
export type Allowed = Schemas['AllowedView'];
export type Refused = Schemas['RefusedView'];

export type Conversation = Schemas['Conversation'];
export type Ticket = Schemas['Ticket'];

export type Usage = Schemas['UsageView'];
export type DayUsage = Schemas['DayUsageView'];
export type Cap = Schemas['CapView'];
export type Link = Schemas['Link'];

export interface Page<T> {
  items: T[];
  next?: string | null;
}
