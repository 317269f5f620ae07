import type { Settings } from '../../api/types';
import { changed, draftOf, isDirty, rebase, savedWord } from './draft';

const settings: Settings = {
  bot_name: 'Pip',
  personality: 'friendly',
  timezone: 'UTC',
  default_model: 'a/b',
  fallback_model: null,
  notifications: { email: true, push: false, daily_summary_at: null },
};

test('edits survive a newer revision, and untouched fields follow it', () => {
  const draft = {
    ...draftOf(settings, 3),
    edited: { ...settings, bot_name: 'Pearl', notifications: { ...settings.notifications, push: true } },
  };
  expect([isDirty(draft), changed(draft)]).toEqual([true, ['bot_name', 'notifications.push']]);
  const theirs: Settings = {
    ...settings,
    bot_name: 'Max',
    timezone: 'Europe/Berlin',
    notifications: { ...settings.notifications, email: false },
  };
  const next = rebase(draft, theirs, 4);
  expect(next).toMatchObject({ revision: 4, base: theirs });
  expect(next.edited).toEqual({ ...theirs, bot_name: 'Pearl', notifications: { email: false, push: true, daily_summary_at: null } });
  expect(isDirty(rebase(draftOf(settings, 3), theirs, 4))).toBe(false);
});

test('saved becomes live when the cell took the revision over', () => {
  expect([savedWord(4, 0), savedWord(4, 3), savedWord(4, 4), savedWord(4, 6)]).toEqual(['saved', 'saved', 'live', 'live']);
});
