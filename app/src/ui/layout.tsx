// Phone or desk, and the column that most pages sit in.

import type { ReactNode } from 'react';
import { ScrollView, useWindowDimensions, View } from 'react-native';

/** Room for a side panel beside the page. */
const DESK_FROM_PX = 900;

export function useIsDesk(): boolean {
  return useWindowDimensions().width >= DESK_FROM_PX;
}

/** A page that scrolls, in one column. `middle` puts short content in the middle of the height. */
export function Column({ children, narrow, middle, testID }: { children: ReactNode; narrow?: boolean; middle?: boolean; testID?: string }) {
  return (
    <ScrollView
      testID={testID}
      className="flex-1 bg-paper"
      contentContainerClassName={`grow px-5 py-8 ${middle ? 'justify-center' : ''}`}
      keyboardShouldPersistTaps="handled"
    >
      <View role="main" className={`w-full self-center gap-6 ${narrow ? 'max-w-md' : 'max-w-2xl'}`}>
        {children}
      </View>
    </ScrollView>
  );
}
