// Models as options to choose from.

import type { Model } from '@/api/types';
import { exactUsd } from '../usage/money';

export interface ModelOption {
  value: string;
  label: string;
  note?: string;
}

export function modelOptions(models: readonly Model[]): ModelOption[] {
  return models.map((model) => ({ value: model.id, label: model.name, note: note(model) }));
}

function note(model: Model): string {
  const { input_usd, output_usd } = model.price;
  return `${model.strengths} ${exactUsd(input_usd)} in, ${exactUsd(output_usd)} out for a million tokens.`.trim();
}
