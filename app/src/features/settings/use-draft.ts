// The settings form behind its page: a draft, saving with the revision, and what to do when somebody else saved first.

import { useEffect, useState } from 'react';
import { api } from '@/api/client';
import { Problem, sentence } from '@/api/problem';
import type { Bot, Settings } from '@/api/types';
import { keys, queryClient } from '../queries';
import { draftOf, isDirty, rebase, type Draft } from './draft';

export interface SettingsFault {
  field: string | null;
  text: string;
}

export function useDraft(bot: Bot) {
  const [draft, setDraft] = useState<Draft>(() => draftOf(bot.settings, bot.revision));
  const [saving, setSaving] = useState(false);
  const [fault, setFault] = useState<SettingsFault | null>(null);
  const [overtaken, setOvertaken] = useState(false);

  useEffect(() => {
    setDraft((mine) => (bot.revision > mine.revision ? rebase(mine, bot.settings, bot.revision) : mine));
  }, [bot]);

  const edit = (change: Partial<Settings>) => {
    setFault(null);
    setDraft((mine) => ({ ...mine, edited: { ...mine.edited, ...change } }));
  };
  const save = async () => {
    setSaving(true);
    setFault(null);
    setOvertaken(false);
    try {
      const { revision } = await api.configureBot(bot.id, draft.revision, draft.edited);
      setDraft(draftOf(draft.edited, revision));
    } catch (error) {
      if (error instanceof Problem && error.status === 412) setOvertaken(true);
      else setFault({ field: error instanceof Problem ? error.field : null, text: sentence(error) });
    } finally {
      setSaving(false);
      await queryClient.invalidateQueries({ queryKey: keys.bots });
    }
  };
  const reset = () => setDraft((mine) => ({ ...mine, edited: mine.base }));
  return { settings: draft.edited, revision: draft.revision, dirty: isDirty(draft), saving, fault, overtaken, edit, save, reset };
}
