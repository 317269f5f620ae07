import { ArchivedPage } from '@/screens/archived';

export default ArchivedPage;
