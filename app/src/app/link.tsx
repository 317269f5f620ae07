import { FollowLink } from '@/screens/link';

export default FollowLink;
