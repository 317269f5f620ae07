// Usage by day as bars, with the same numbers in words for whoever cannot see them.

import { useState } from 'react';
import { View } from 'react-native';
import Svg, { Rect } from 'react-native-svg';
import type { Usage } from '@/api/types';
import { bars } from '@/features/usage/chart';
import { exactUsd } from '@/features/usage/money';
import { useColor } from '@/ui/color';
import { Text } from '@/ui/text';

const HEIGHT = 120;
/** A used day is never invisible. */
const BAR_MIN = 3;
/** A month has just begun: a single bar should not fill the page. */
const BAR_WIDTH_MAX = 36;

const dayLabel = (day: string) =>
  new Date(`${day}T00:00:00Z`).toLocaleDateString(undefined, { day: 'numeric', month: 'long', timeZone: 'UTC' });

export function DayChart({ usage }: { usage: Usage }) {
  const [width, setWidth] = useState(0);
  const accent = useColor('accent');
  const line = useColor('line');
  const days = bars(usage.by_day, usage.period_start, usage.period_end, new Date());
  const slot = Math.min(BAR_WIDTH_MAX, days.length ? width / days.length : 0);
  const used = days.filter((day) => day.height > 0);
  const words = used.map((day) => `${day.day}: ${exactUsd(day.usd)}`).join(', ');
  return (
    <View
      onLayout={({ nativeEvent }) => setWidth(nativeEvent.layout.width)}
      className="gap-2"
      testID="usage-chart"
      role="img"
      aria-label={words || 'Nothing used yet'}
    >
      {width > 0 ? (
        <Svg width={width} height={HEIGHT} aria-hidden>
          <Rect x={0} y={HEIGHT - 1} width={width} height={1} fill={line} />
          {days.map((day, index) => {
            const height = day.height ? Math.max(BAR_MIN, day.height * (HEIGHT - 2)) : 0;
            return (
              <Rect
                key={day.day}
                x={index * slot + slot * 0.14}
                y={HEIGHT - 1 - height}
                width={slot * 0.72}
                height={height}
                rx={2}
                fill={accent}
              />
            );
          })}
        </Svg>
      ) : null}
      <View className="flex-row justify-between">
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
