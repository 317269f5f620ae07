import { EgressPage } from '@/screens/egress';

export default EgressPage;
