import { YourPlan } from '@/screens/your-plan';

export default YourPlan;
