//! Code points of the IANA registry "Internet Key Exchange Version 2 (IKEv2) Parameters", as newtypes over the
//! integer: a value without a name is a value all the same.

use std::fmt;

macro_rules! code_points {
    ($(#[$meta:meta])* $name:ident($repr:ty) { $($(#[$item:meta])* $constant:ident = $value:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$item])* pub const $constant: Self = Self($value);)*

            /// The registry's name, where the value has one here.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some(stringify!($constant)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => self.0.fmt(f),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

code_points! {
    /// Exchange types (RFC 7296 §3.1).
    ExchangeType(u8) {
        /// The first exchange of an IKE SA.
        IKE_SA_INIT = 34,
        /// Authenticates the IKE SA and makes the first CHILD SA.
        IKE_AUTH = 35,
        /// Makes or rekeys CHILD SAs, rekeys the IKE SA.
        CREATE_CHILD_SA = 36,
        /// Deletes, notifies, asks for a sign of life.
        INFORMATIONAL = 37,
        /// Between IKE_SA_INIT and IKE_AUTH (RFC 9242).
        IKE_INTERMEDIATE = 43,
        /// Additional key exchanges after CREATE_CHILD_SA (RFC 9370).
        IKE_FOLLOWUP_KE = 44,
    }
}

code_points! {
    /// Payload types (RFC 7296 §3.2).
    PayloadType(u8) {
        /// No next payload.
        NONE = 0,
        /// Security Association.
        SA = 33,
        /// Key Exchange.
        KE = 34,
        /// Identification of the initiator.
        IDI = 35,
        /// Identification of the responder.
        IDR = 36,
        /// Certificate.
        CERT = 37,
        /// Certificate Request.
        CERTREQ = 38,
        /// Authentication.
        AUTH = 39,
        /// Nonce.
        NONCE = 40,
        /// Notify.
        NOTIFY = 41,
        /// Delete.
        DELETE = 42,
        /// Vendor ID.
        VENDOR_ID = 43,
        /// Traffic Selectors of the initiator.
        TSI = 44,
        /// Traffic Selectors of the responder.
        TSR = 45,
        /// Encrypted and Authenticated.
        SK = 46,
        /// Configuration.
        CP = 47,
        /// Extensible Authentication.
        EAP = 48,
        /// Encrypted and Authenticated Fragment (RFC 7383).
        SKF = 53,
    }
}

code_points! {
    /// Security protocol identifiers (RFC 7296 §3.3.1).
    Protocol(u8) {
        /// None: a notify about the IKE SA that carries it.
        NONE = 0,
        /// IKE.
        IKE = 1,
        /// AH.
        AH = 2,
        /// ESP.
        ESP = 3,
    }
}

code_points! {
    /// Transform types (RFC 7296 §3.3.2).
    TransformType(u8) {
        /// Encryption algorithm.
        ENCR = 1,
        /// Pseudorandom function.
        PRF = 2,
        /// Integrity algorithm.
        INTEG = 3,
        /// Key exchange method.
        KE = 4,
        /// Extended sequence numbers.
        ESN = 5,
        /// The first additional key exchange (RFC 9370 §2.2.1).
        ADDKE1 = 6,
        /// The second.
        ADDKE2 = 7,
        /// The third.
        ADDKE3 = 8,
        /// The fourth.
        ADDKE4 = 9,
        /// The fifth.
        ADDKE5 = 10,
        /// The sixth.
        ADDKE6 = 11,
        /// The seventh.
        ADDKE7 = 12,
    }
}

code_points! {
    /// Transform attribute types (RFC 7296 §3.3.5), without the format bit.
    AttributeType(u16) {
        /// Key length in bits.
        KEY_LENGTH = 14,
    }
}

code_points! {
    /// Key exchange methods (transform type 4).
    KeyExchangeMethod(u16) {
        /// No key exchange.
        NONE = 0,
        /// 2048-bit MODP group (RFC 3526).
        MODP_2048 = 14,
        /// 3072-bit MODP group (RFC 3526).
        MODP_3072 = 15,
        /// 4096-bit MODP group (RFC 3526).
        MODP_4096 = 16,
        /// 256-bit random ECP group (RFC 5903).
        ECP_256 = 19,
        /// 384-bit random ECP group (RFC 5903).
        ECP_384 = 20,
        /// 521-bit random ECP group (RFC 5903).
        ECP_521 = 21,
        /// Curve25519 (RFC 8031).
        X25519 = 31,
        /// ML-KEM-512 (draft-ietf-ipsecme-ikev2-mlkem §2.3).
        ML_KEM_512 = 35,
        /// ML-KEM-768.
        ML_KEM_768 = 36,
        /// ML-KEM-1024.
        ML_KEM_1024 = 37,
    }
}

code_points! {
    /// Identification types (RFC 7296 §3.5).
    IdType(u8) {
        /// Four bytes.
        IPV4_ADDR = 1,
        /// A domain name, ASCII.
        FQDN = 2,
        /// An e-mail address.
        RFC822_ADDR = 3,
        /// Sixteen bytes.
        IPV6_ADDR = 5,
        /// Distinguished name, DER.
        DER_ASN1_DN = 9,
        /// General name, DER.
        DER_ASN1_GN = 10,
        /// Opaque bytes.
        KEY_ID = 11,
    }
}

code_points! {
    /// Certificate encodings (RFC 7296 §3.6).
    CertificateEncoding(u8) {
        /// A DER-encoded X.509 certificate.
        X509_SIGNATURE = 4,
        /// Hash and URL of an X.509 certificate.
        HASH_URL_X509 = 12,
    }
}

code_points! {
    /// Authentication methods (RFC 7296 §3.8).
    AuthMethod(u8) {
        /// RSA with PKCS #1 v1.5 and SHA-1.
        RSA_SIGNATURE = 1,
        /// Shared key message integrity code.
        SHARED_KEY = 2,
        /// ECDSA with SHA-256 on P-256 (RFC 4754).
        ECDSA_SHA256_P256 = 9,
        /// Digital signature with its algorithm named (RFC 7427).
        DIGITAL_SIGNATURE = 14,
    }
}

code_points! {
    /// Hash algorithms of SIGNATURE_HASH_ALGORITHMS (RFC 7427 §7).
    HashAlgorithm(u16) {
        /// SHA-1: never accepted.
        SHA1 = 1,
        /// SHA2-256.
        SHA2_256 = 2,
        /// SHA2-384.
        SHA2_384 = 3,
        /// SHA2-512.
        SHA2_512 = 4,
        /// The signature algorithm hashes by itself (RFC 8420).
        IDENTITY = 5,
    }
}

code_points! {
    /// Traffic selector types (RFC 7296 §3.13.1).
    SelectorType(u8) {
        /// A range of IPv4 addresses.
        IPV4_ADDR_RANGE = 7,
        /// A range of IPv6 addresses.
        IPV6_ADDR_RANGE = 8,
    }
}

code_points! {
    /// Notify message types (RFC 7296 §3.10.1): errors below 16384, status from there on.
    NotifyType(u16) {
        /// Names the payload type that is not supported.
        UNSUPPORTED_CRITICAL_PAYLOAD = 1,
        /// The SPIs are not known to the receiver.
        INVALID_IKE_SPI = 4,
        /// The major version is not supported.
        INVALID_MAJOR_VERSION = 5,
        /// The message is malformed.
        INVALID_SYNTAX = 7,
        /// A message ID outside the window.
        INVALID_MESSAGE_ID = 9,
        /// An ESP or AH packet with an SPI that is not known.
        INVALID_SPI = 11,
        /// No proposal is acceptable.
        NO_PROPOSAL_CHOSEN = 14,
        /// Names the key exchange method that is wanted.
        INVALID_KE_PAYLOAD = 17,
        /// The peer could not be authenticated.
        AUTHENTICATION_FAILED = 24,
        /// Only single pairs of addresses are acceptable.
        SINGLE_PAIR_REQUIRED = 34,
        /// No further CHILD SA on this IKE SA.
        NO_ADDITIONAL_SAS = 35,
        /// No address could be assigned.
        INTERNAL_ADDRESS_FAILURE = 36,
        /// A configuration payload was expected.
        FAILED_CP_REQUIRED = 37,
        /// The traffic selectors do not meet.
        TS_UNACCEPTABLE = 38,
        /// A packet came through an SA whose selectors it does not match.
        INVALID_SELECTORS = 39,
        /// Try again later (RFC 7296 §2.25).
        TEMPORARY_FAILURE = 43,
        /// The CHILD SA to be rekeyed is not there (RFC 7296 §2.25).
        CHILD_SA_NOT_FOUND = 44,
        /// No state for an additional key exchange (RFC 9370).
        STATE_NOT_FOUND = 47,
        /// The only IKE SA with this peer.
        INITIAL_CONTACT = 16384,
        /// How many messages the sender accepts at once.
        SET_WINDOW_SIZE = 16385,
        /// Narrowed selectors may be widened by another CHILD SA.
        ADDITIONAL_TS_POSSIBLE = 16386,
        /// IP compression.
        IPCOMP_SUPPORTED = 16387,
        /// Hash over SPIs, source address and port (RFC 7296 §2.23).
        NAT_DETECTION_SOURCE_IP = 16388,
        /// Hash over SPIs, destination address and port.
        NAT_DETECTION_DESTINATION_IP = 16389,
        /// Proof of return routability (RFC 7296 §2.6).
        COOKIE = 16390,
        /// Transport mode (RFC 7296 §1.3.1).
        USE_TRANSPORT_MODE = 16391,
        /// Hash and URL certificates may be sent.
        HTTP_CERT_LOOKUP_SUPPORTED = 16392,
        /// Names the CHILD SA that is replaced (RFC 7296 §1.3.3).
        REKEY_SA = 16393,
        /// The sender does not accept traffic flow confidentiality padding.
        ESP_TFC_PADDING_NOT_SUPPORTED = 16394,
        /// The sender accepts fragments that are not the first.
        NON_FIRST_FRAGMENTS_ALSO = 16395,
        /// Seconds until reauthentication (RFC 4478).
        AUTH_LIFETIME = 16403,
        /// EAP alone authenticates the responder (RFC 5998).
        EAP_ONLY_AUTHENTICATION = 16417,
        /// An IKE SA without a CHILD SA is accepted (RFC 6023).
        CHILDLESS_IKEV2_SUPPORTED = 16418,
        /// IKE fragmentation (RFC 7383).
        IKEV2_FRAGMENTATION_SUPPORTED = 16430,
        /// Hash algorithms that the sender verifies (RFC 7427 §4).
        SIGNATURE_HASH_ALGORITHMS = 16431,
        /// The sender has a post-quantum preshared key (RFC 8784).
        USE_PPK = 16435,
        /// Names a post-quantum preshared key, or says that it was used.
        PPK_IDENTITY = 16436,
        /// Authentication data as if there were no post-quantum preshared key.
        NO_PPK_AUTH = 16437,
        /// IKE_INTERMEDIATE (RFC 9242).
        INTERMEDIATE_EXCHANGE_SUPPORTED = 16438,
        /// Links IKE_FOLLOWUP_KE exchanges (RFC 9370).
        ADDITIONAL_KEY_EXCHANGE = 16441,
        /// The boot of the sender's node: a private-use status of ours, with sixteen opaque bytes. Sent in IKE_AUTH
        /// only, where it is encrypted; a peer that does not know it ignores it (RFC 7296 §3.10.1).
        IPSECMESH_BOOT_ID = 43_569,
    }
}

impl TransformType {
    /// Additional key exchanges, in the order in which they are carried out.
    pub const ADDITIONAL: [Self; 7] = [
        Self::ADDKE1,
        Self::ADDKE2,
        Self::ADDKE3,
        Self::ADDKE4,
        Self::ADDKE5,
        Self::ADDKE6,
        Self::ADDKE7,
    ];
}

impl NotifyType {
    /// Errors end the exchange that they answer; status does not (RFC 7296 §3.10.1).
    pub fn is_error(self) -> bool {
        self.0 < 16384
    }
}
