// What went wrong, in the server's words (RFC 9457) or in ours when no server answered.
// Never: a raw exception text in front of a person.

export interface ProblemBody {
  code: string;
  title: string;
  status: number;
  detail?: string | null;
  field?: string | null;
}

export class Problem extends Error {
  readonly code: string;
  readonly status: number;
  readonly field: string | null;

  constructor(body: ProblemBody) {
    super(wordsOf(body));
    this.name = 'Problem';
    this.code = body.code;
    this.status = body.status;
    this.field = body.field ?? null;
  }
}

/** What happened, then what to do; for a field only the second, the field says where. */
function wordsOf({ title, detail, field }: ProblemBody): string {
  if (!detail) return title;
  return field ? detail : `${title.replace(/[.?!]$/, '')}. ${detail}`;
}

/** No answer came: offline, refused, timed out. `status` is 0. */
export const unreachable = () =>
  new Problem({ code: 'unreachable', status: 0, title: 'The server did not answer. Check your connection and try again.' });

export const isUnreachable = (error: unknown) => error instanceof Problem && error.status === 0;

/** Reads a failed answer; a body that is not a Problem (a proxy's page, say) becomes one by its status. */
export async function problemFrom(answer: Response): Promise<Problem> {
  const body = (await answer.json().catch(() => null)) as Partial<ProblemBody> | null;
  if (body && typeof body.code === 'string' && typeof body.title === 'string') {
    return new Problem({ ...body, code: body.code, title: body.title, status: answer.status });
  }
  const title = answer.status >= 500 ? 'The server has a problem. Please try again in a moment.' : 'The server refused this.';
  return new Problem({ code: `http_${answer.status}`, status: answer.status, title });
}

/** A sentence for a person, whatever was thrown. */
export function sentence(error: unknown): string {
  return error instanceof Problem ? error.message : 'Something went wrong here. Please try again.';
}
