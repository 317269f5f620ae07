// The shapes of the API that the app uses, by hand until openapi.json exists; then they come from schema.ts.
// Never: a shape that front-door.md does not promise.

export interface ClientConfig {
  identity: 'local' | 'clerk';
  payments: 'local' | 'stripe';
  signup: 'open' | 'invite' | 'closed';
}

export interface User {
  id: string;
  email: string;
  name: string | null;
  timezone?: string | null;
}

export interface SignedIn {
  token: string;
  expires_at: string;
  user: User;
}

export type Vertical = 'executive' | 'developer' | 'researcher' | 'creator';
export type Personality = 'friendly' | 'professional' | 'concise' | 'playful';
export type Status = 'provisioning' | 'running' | 'stopped' | 'error';

export interface Step {
  name: string;
  sentence: string;
  started_at: string;
  deadline_at: string;
  ended_at: string | null;
  outcome: 'done' | 'failed' | null;
}

export interface Settings {
  bot_name: string;
  personality: Personality;
  timezone: string;
  default_model: string;
  fallback_model: string | null;
  notifications: { email: boolean; push: boolean; daily_summary_at: string | null };
}

export interface Bot {
  id: string;
  bot_name: string;
  vertical: Vertical;
  status: Status;
  phase: string;
  reason: string | null;
  steps: Step[];
  settings: Settings;
  revision: number;
  applied_revision: number | null;
}

export interface NewBot {
  bot_name: string;
  vertical: Vertical;
  timezone: string;
  personality?: Personality;
}

export interface Conversation {
  id: string;
  title: string | null;
  archived?: boolean;
  created_at?: string;
  updated_at?: string;
}

export interface Model {
  id: string;
  name?: string;
  strengths?: string[] | string;
  input_usd_per_million?: string;
  output_usd_per_million?: string;
}

export interface ModelUsage {
  model: string;
  tokens_in: number;
  tokens_out: number;
  usage_usd: string;
  calls?: number;
}

export interface DayUsage {
  day: string;
  tokens_in: number;
  tokens_out: number;
  usage_usd: string;
}

export interface Usage {
  period_start: string;
  period_end: string;
  base_usd: string;
  usage_usd: string;
  total_usd: string;
  cap_usd: string | null;
  tokens_in: number;
  tokens_out: number;
  by_model: ModelUsage[];
  by_day: DayUsage[];
}

export interface Page<T> {
  items: T[];
  next: string | null;
}
