// The four kinds of help, in the words of the wizard and of the empty chat.
// Never: a promise that the assistant cannot keep on its first day.

import type { Personality, Vertical } from '../../api/types';

export interface VerticalWords {
  id: Vertical;
  title: string;
  line: string;
  suggestions: readonly string[];
}

export const VERTICALS: readonly VerticalWords[] = [
  {
    id: 'executive',
    title: 'Executive',
    line: 'Days, decisions and drafts: what matters, before it is late.',
    suggestions: [
      'Help me plan my week around three priorities',
      'Draft a short note that declines a meeting kindly',
      'Remember who I report to and what they care about',
      'Turn my notes into a decision with options and a recommendation',
    ],
  },
  {
    id: 'developer',
    title: 'Developer',
    line: 'Code, commands and reviews: a second pair of eyes with a shell.',
    suggestions: [
      'Write a script that finds the ten largest files in a folder',
      'Explain this error to me: connection reset by peer',
      'Remember the stack I work with and the style I like',
      'Review a function that I paste next',
    ],
  },
  {
    id: 'researcher',
    title: 'Researcher',
    line: 'Sources, summaries and notes: long reading made usable.',
    suggestions: [
      'Outline a literature review on a topic I name',
      'Compare two methods in a table, with their limits',
      'Remember the question that my project is about',
      'Make a reading plan for the next two weeks',
    ],
  },
  {
    id: 'creator',
    title: 'Creator',
    line: 'Ideas, scripts and calendars: from a thought to something to show.',
    suggestions: [
      'Give me ten ideas for a short video, one line each',
      'Rewrite a paragraph in a warmer voice',
      'Remember who my audience is and how I talk to them',
      'Plan a month of posts with one theme a week',
    ],
  },
];

export const PERSONALITIES: readonly { id: Personality; title: string; line: string }[] = [
  { id: 'friendly', title: 'Friendly', line: 'Warm and at ease' },
  { id: 'professional', title: 'Professional', line: 'Polite and to the point' },
  { id: 'concise', title: 'Concise', line: 'As few words as it takes' },
  { id: 'playful', title: 'Playful', line: 'A little fun on the way' },
];

export function suggestionsFor(vertical: Vertical): readonly string[] {
  return VERTICALS.find((words) => words.id === vertical)?.suggestions ?? VERTICALS[0]!.suggestions;
}
