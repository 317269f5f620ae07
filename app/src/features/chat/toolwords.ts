// A readable line for a tool call: "Wrote memory/today.md", "Ran ls -la", and the details when they are unfolded.
// Never: the only place where something is said; the raw arguments are always one tap away.

/** A card's title stays on one line of a phone. */
const HINT_CHARACTERS_MAX = 60;
/** More than this of a result only makes the page slow; the rest is in the assistant's own files. */
const DETAIL_CHARACTERS_MAX = 6_000;

const VERBS: Record<string, [doing: string, done: string]> = {
  read: ['Reading', 'Read'],
  write: ['Writing', 'Wrote'],
  edit: ['Editing', 'Edited'],
  apply_patch: ['Editing', 'Edited'],
  exec: ['Running', 'Ran'],
  bash: ['Running', 'Ran'],
  process: ['Watching a command', 'Watched a command'],
  web_search: ['Searching the web for', 'Searched the web for'],
  web_fetch: ['Reading', 'Read'],
  memory_search: ['Searching memory for', 'Searched memory for'],
  memory_get: ['Reading', 'Read'],
};
const TELLING = ['path', 'file_path', 'file', 'command', 'query', 'url', 'name', 'q'];

export function toolTitle(tool: string, args: unknown, running: boolean): string {
  const verbs = VERBS[tool];
  const hint = toolHint(args);
  const words = tool.replace(/[_.-]+/g, ' ');
  const verb = verbs ? verbs[running ? 0 : 1] : words.charAt(0).toUpperCase() + words.slice(1);
  return hint ? `${verb} ${hint}` : verb;
}

export function detail(value: unknown): string {
  const text = typeof value === 'string' ? value : value === null || value === undefined ? '' : JSON.stringify(value, null, 2);
  return text.length > DETAIL_CHARACTERS_MAX
    ? `${text.slice(0, DETAIL_CHARACTERS_MAX)}\n… (${text.length - DETAIL_CHARACTERS_MAX} more characters)`
    : text;
}

function toolHint(args: unknown): string {
  if (!args || typeof args !== 'object') return '';
  const known = args as Record<string, unknown>;
  const key = TELLING.find((name) => typeof known[name] === 'string' && known[name]);
  const line = key ? String(known[key]).split('\n')[0]!.trim() : '';
  return line.length > HINT_CHARACTERS_MAX ? `${line.slice(0, HINT_CHARACTERS_MAX - 1)}…` : line;
}
