// Models as options to choose from.

import type { Model } from '@/api/types';
import { exactUsd } from '../usage/money';

export interface ModelOption {
  value: string;
  label: string;
  note?: string;
}

export function modelOptions(models: readonly Model[]): ModelOption[] {
  return models.map((model) => ({ value: model.id, label: model.name ?? model.id, note: note(model) }));
}

function note(model: Model): string | undefined {
  const strengths = Array.isArray(model.strengths) ? model.strengths.join(', ') : model.strengths;
  const { input_usd_per_million: tokensIn, output_usd_per_million: tokensOut } = model;
  const price = tokensIn && tokensOut ? `${exactUsd(tokensIn)} in, ${exactUsd(tokensOut)} out for a million tokens` : undefined;
  return [strengths, price].filter(Boolean).join(' · ') || undefined;
}
