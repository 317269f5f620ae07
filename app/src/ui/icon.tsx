// Our own small set of line icons, drawn on a 24-unit grid.
// Never: the only carrier of a meaning; the control around it has a label.

import Svg, { Path } from 'react-native-svg';
import { useColor, type ColorName } from './color';

const PATHS = {
  menu: 'M4 7h16M4 12h16M4 17h10',
  plus: 'M12 5v14M5 12h14',
  send: 'M12 20V5M6 11l6-6 6 6',
  stop: 'M7 7h10v10H7z',
  down: 'M6 9l6 6 6-6',
  right: 'M9 6l6 6-6 6',
  left: 'M15 6l-6 6 6 6',
  more: 'M4.5 12a.5.5 0 101 0a.5.5 0 10-1 0M11.5 12a.5.5 0 101 0a.5.5 0 10-1 0M18.5 12a.5.5 0 101 0a.5.5 0 10-1 0',
  archive: 'M4 5h16v4H4zM5.5 9v10.500h13V9M10 13h4',
  download: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  check: 'M5 13l4.5 4.5L19 7',
  close: 'M6 6l12 12M18 6L6 18',
  pencil: 'M4 20l1-4L16.5 4.5l3 3L8 19zM14 7l3 3',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5',
  sliders: 'M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5v5M8 14.5v5',
  chart: 'M5 20v-7M12 20V5M19 20v-10',
  person: 'M12 12a4 4 0 100-8 4 4 0 000 8zM4.5 20c1-4 4-5.5 7.5-5.5s6.5 1.5 7.5 5.5',
  thought: 'M12 4c4.7 0 8.5 3 8.5 6.8S16.7 17.5 12 17.500c-.8 0-1.6-.1-2.3-.2L6 20v-4.200c-1.6-1.2-2.5-3-2.5-5C3.5 7 7.3 4 12 4z',
  tool: 'M14.5 5.500a4.5 4.5 0 015.7 5.700L17 8.500l-1.5 1.5 2.7 3.200a4.5 4.5 0 01-5.7-1.700L6 18.5 4.5 17l6.5-6.500a4.5 4.5 0 013.5-5z',
  file: 'M6 3.500h8l4 4V20.500H6zM14 3.500v4h4M9 12.500h6M9 16h4',
  alert: 'M12 4l9 16H3zM12 10v4.500M12 17.200v.1',
  info: 'M12 21a9 9 0 100-18 9 9 0 000 18zM12 11v5.500M12 7.700v.1',
  clock: 'M12 21a9 9 0 100-18 9 9 0 000 18zM12 7.500V12l3 2',
  search: 'M11 18a7 7 0 100-14 7 7 0 000 14zM16 16l4.5 4.5',
  leave: 'M10 4H5v16h5M14 8l4 4-4 4M9 12h9',
  retry: 'M19 12a7 7 0 11-2-5M19 4v4h-4',
  shield: 'M12 3.500l7 2.500v6c0 4.5-3 7-7 8.5-4-1.5-7-4-7-8.500V6z',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 20, color = 'ink' }: { name: IconName; size?: number; color?: ColorName }) {
  const stroke = useColor(color);
  return (
    <Svg width={size} height={size} viewBox="0 0 24 24" fill={name === 'stop' ? stroke : 'none'} aria-hidden>
      <Path d={PATHS[name]} stroke={stroke} strokeWidth={1.8} strokeLinecap="round" strokeLinejoin="round" />
    </Svg>
  );
}
