//! Codes of the protocol that may be unknown: any value survives, known ones have the standard's name.

macro_rules! wire_code {
    ($(#[$doc:meta])* $name:ident($repr:ty) { $($(#[$vdoc:meta])* $code:ident = $value:expr, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$vdoc])* #[doc = $text] pub const $code: Self = Self($value);)*

            /// Every code that has a name.
            pub const KNOWN: &'static [Self] = &[$(Self::$code),*];

            /// The standard's name for it; `None` when the code is unknown.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(v if v == $value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({:#x})"), self.0),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}

wire_code! {
    /// Opcode of a PDU (RFC 7143, section 11.2.1.2): six bits, without the immediate bit.
    Opcode(u8) {
        NOP_OUT = 0x00, "NOP-Out";
        SCSI_COMMAND = 0x01, "SCSI Command";
        TASK_MANAGEMENT_REQUEST = 0x02, "SCSI Task Management Function Request";
        LOGIN_REQUEST = 0x03, "Login Request";
        TEXT_REQUEST = 0x04, "Text Request";
        DATA_OUT = 0x05, "SCSI Data-Out";
        LOGOUT_REQUEST = 0x06, "Logout Request";
        SNACK_REQUEST = 0x10, "SNACK Request";
        NOP_IN = 0x20, "NOP-In";
        SCSI_RESPONSE = 0x21, "SCSI Response";
        TASK_MANAGEMENT_RESPONSE = 0x22, "SCSI Task Management Function Response";
        LOGIN_RESPONSE = 0x23, "Login Response";
        TEXT_RESPONSE = 0x24, "Text Response";
        DATA_IN = 0x25, "SCSI Data-In";
        LOGOUT_RESPONSE = 0x26, "Logout Response";
        R2T = 0x31, "Ready To Transfer";
        ASYNC_MESSAGE = 0x32, "Asynchronous Message";
        REJECT = 0x3f, "Reject";
    }
}

wire_code! {
    /// Why a PDU was rejected (RFC 7143, section 11.17.1).
    RejectReason(u8) {
        DATA_DIGEST_ERROR = 0x02, "Data (payload) digest error";
        SNACK_REJECT = 0x03, "SNACK Reject";
        PROTOCOL_ERROR = 0x04, "Protocol Error";
        COMMAND_NOT_SUPPORTED = 0x05, "Command not supported";
        IMMEDIATE_COMMAND_REJECT = 0x06, "Immediate command reject";
        TASK_IN_PROGRESS = 0x07, "Task in progress";
        INVALID_DATA_ACK = 0x08, "Invalid data ack";
        INVALID_PDU_FIELD = 0x09, "Invalid PDU field";
        LONG_OPERATION_REJECT = 0x0a, "Long op reject";
        NEGOTIATION_RESET = 0x0b, "Negotiation reset";
        WAITING_FOR_LOGOUT = 0x0c, "Waiting for Logout";
    }
}

wire_code! {
    /// Task management function (RFC 7143, section 11.5.1; 8 to 12 by RFC 7144).
    TaskManagementFunction(u8) {
        ABORT_TASK = 1, "ABORT TASK";
        ABORT_TASK_SET = 2, "ABORT TASK SET";
        CLEAR_ACA = 3, "CLEAR ACA";
        CLEAR_TASK_SET = 4, "CLEAR TASK SET";
        LOGICAL_UNIT_RESET = 5, "LOGICAL UNIT RESET";
        TARGET_WARM_RESET = 6, "TARGET WARM RESET";
        TARGET_COLD_RESET = 7, "TARGET COLD RESET";
        TASK_REASSIGN = 8, "TASK REASSIGN";
        QUERY_TASK = 9, "QUERY TASK";
        QUERY_TASK_SET = 10, "QUERY TASK SET";
        I_T_NEXUS_RESET = 11, "I_T NEXUS RESET";
        QUERY_ASYNC_EVENT = 12, "QUERY ASYNCHRONOUS EVENT";
    }
}

wire_code! {
    /// Answer to a task management function (RFC 7143, section 11.6.1).
    TaskManagementResponse(u8) {
        FUNCTION_COMPLETE = 0, "Function complete";
        TASK_DOES_NOT_EXIST = 1, "Task does not exist";
        LUN_DOES_NOT_EXIST = 2, "LUN does not exist";
        TASK_STILL_ALLEGIANT = 3, "Task still allegiant";
        TASK_REASSIGN_NOT_SUPPORTED = 4, "Task allegiance reassignment not supported";
        FUNCTION_NOT_SUPPORTED = 5, "Task management function not supported";
        FUNCTION_AUTHORIZATION_FAILED = 6, "Function authorization failed";
        FUNCTION_REJECTED = 255, "Function rejected";
    }
}

wire_code! {
    /// Status-Class (high byte) and Status-Detail (low byte) of a Login Response (RFC 7143, section 11.13.5).
    LoginStatus(u16) {
        SUCCESS = 0x0000, "Success";
        TARGET_MOVED_TEMPORARILY = 0x0101, "Target moved temporarily";
        TARGET_MOVED_PERMANENTLY = 0x0102, "Target moved permanently";
        INITIATOR_ERROR = 0x0200, "Initiator error";
        AUTHENTICATION_FAILURE = 0x0201, "Authentication failure";
        AUTHORIZATION_FAILURE = 0x0202, "Authorization failure";
        NOT_FOUND = 0x0203, "Not found";
        TARGET_REMOVED = 0x0204, "Target removed";
        UNSUPPORTED_VERSION = 0x0205, "Unsupported version";
        TOO_MANY_CONNECTIONS = 0x0206, "Too many connections";
        MISSING_PARAMETER = 0x0207, "Missing parameter";
        CANNOT_INCLUDE_IN_SESSION = 0x0208, "Can't include in session";
        SESSION_TYPE_NOT_SUPPORTED = 0x0209, "Session type not supported";
        SESSION_DOES_NOT_EXIST = 0x020a, "Session does not exist";
        INVALID_DURING_LOGIN = 0x020b, "Invalid during login";
        TARGET_ERROR = 0x0300, "Target error";
        SERVICE_UNAVAILABLE = 0x0301, "Service unavailable";
        OUT_OF_RESOURCES = 0x0302, "Out of resources";
    }
}

wire_code! {
    /// Reason of a Logout Request (RFC 7143, section 11.14.1): seven bits.
    LogoutReason(u8) {
        CLOSE_SESSION = 0, "close the session";
        CLOSE_CONNECTION = 1, "close the connection";
        REMOVE_FOR_RECOVERY = 2, "remove the connection for recovery";
    }
}

wire_code! {
    /// Answer to a Logout Request (RFC 7143, section 11.15.1).
    LogoutResponse(u8) {
        CLOSED = 0, "connection or session closed successfully";
        CID_NOT_FOUND = 1, "CID not found";
        RECOVERY_NOT_SUPPORTED = 2, "connection recovery is not supported";
        CLEANUP_FAILED = 3, "cleanup failed";
    }
}

wire_code! {
    /// Stage of a login (RFC 7143, section 11.12.3): two bits.
    LoginStage(u8) {
        SECURITY_NEGOTIATION = 0, "SecurityNegotiation";
        OPERATIONAL_NEGOTIATION = 1, "LoginOperationalNegotiation";
        FULL_FEATURE_PHASE = 3, "FullFeaturePhase";
    }
}
