//! Linux XFRM over netlink: typed requests, batches, dumps and events.
