//! `key=value<NUL>` text of Login and Text PDUs (RFC 7143, section 6.1).
