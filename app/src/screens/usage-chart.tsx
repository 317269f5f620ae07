// Usage by day as bars; one day is picked out in words, and all of them are said to whoever cannot see the bars.

import { useState } from 'react';
import { Pressable, View } from 'react-native';
import type { Usage } from '@/api/types';
import { bars, type Bar } from '@/features/usage/chart';
import { exactUsd } from '@/features/usage/money';
import { Text } from '@/ui/text';

const HEIGHT_PX = 120;
/** A used day is never invisible. */
const BAR_MIN_PX = 3;

const dayLabel = (day: string) =>
  new Date(`${day}T00:00:00Z`).toLocaleDateString(undefined, { day: 'numeric', month: 'long', timeZone: 'UTC' });

export function DayChart({ usage }: { usage: Usage }) {
  const [picked, setPicked] = useState<string | null>(null);
  const days = bars(usage.by_day, usage.period_start, usage.period_end);
  const used = days.filter((day) => day.height > 0);
  const shown = days.find((day) => day.day === picked) ?? used.at(-1);
  const words = used.map((day) => `${dayLabel(day.day)}: ${exactUsd(day.usd)}`).join(', ');
  return (
    <View className="gap-2" testID="usage-chart" role="img" aria-label={words || 'Nothing used yet'}>
      <Text tone="muted" className="tabular-nums" testID="usage-day" aria-hidden>
        {shown ? `${dayLabel(shown.day)}: ${exactUsd(shown.usd)}` : 'Nothing used yet.'}
      </Text>
      <View className="flex-row items-stretch border-b border-line" style={{ height: HEIGHT_PX }} aria-hidden>
        {days.map((day) => (
          <DayBar key={day.day} bar={day} shown={day === shown} onPick={() => setPicked(day.day)} />
        ))}
      </View>
      <View className="flex-row justify-between" aria-hidden>
        <Text size="xs" tone="muted">
          {days[0] ? dayLabel(days[0].day) : ''}
        </Text>
        <Text size="xs" tone="muted">
          {days.length > 1 ? dayLabel(days.at(-1)!.day) : ''}
        </Text>
      </View>
    </View>
  );
}

function DayBar({ bar, shown, onPick }: { bar: Bar; shown: boolean; onPick: () => void }) {
  const height = bar.height ? Math.max(BAR_MIN_PX, bar.height * (HEIGHT_PX - 1)) : 0;
  return (
    <Pressable
      onPress={onPick}
      onHoverIn={onPick}
      tabIndex={-1}
      className={`grow basis-0 justify-end px-[12%] ${shown ? 'bg-sunken' : ''}`}
    >
      <View className={`rounded-t-sm ${shown ? 'bg-accent-ink' : 'bg-accent'}`} style={{ height }} />
    </Pressable>
  );
}
