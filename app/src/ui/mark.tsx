// The mark: a claw, and the shell that it left behind.

import { View } from 'react-native';
import Svg, { Path } from 'react-native-svg';
import { Text } from './text';

export function Mark({ size = 28 }: { size?: number }) {
  return (
    <Svg width={size} height={size} viewBox="0 0 64 64" aria-hidden>
      <Path d="M14 44C6 30 9 14 23 7" fill="none" stroke="#e0603f" strokeOpacity={0.45} strokeWidth={4} strokeLinecap="round" />
      <Path
        d="M31 57C20 52 15 42 18 30 20 20 27 13 37 11 33 18 33 24 37 30L42 20C46 14 52 13 57 16 60 28 56 44 44 51 40 54 36 56 31 57Z"
        fill="#d94a26"
      />
    </Svg>
  );
}

export function Brand() {
  return (
    <View className="flex-row items-center gap-2">
      <Mark />
      <Text size="lg" weight="heavy">
        Molt
      </Text>
    </View>
  );
}
