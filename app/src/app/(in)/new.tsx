import { Wizard } from '@/screens/wizard';

export default Wizard;
