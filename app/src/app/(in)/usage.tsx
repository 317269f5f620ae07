import { UsagePage } from '@/screens/usage';

export default UsagePage;
