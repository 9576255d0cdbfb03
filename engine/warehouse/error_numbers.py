"""What the engine's error numbers mean."""

from __future__ import annotations

from collections.abc import Mapping

from engine import errors
from engine.errors import Code

CODES: Mapping[int, Code] = {
    # Limits of time, memory, rows and bytes.
    159: errors.TIMEOUT,  # TIMEOUT_EXCEEDED
    160: errors.TIMEOUT,  # TOO_SLOW
    128: errors.RESULT_LIMIT,  # TOO_LARGE_ARRAY_SIZE
    131: errors.RESULT_LIMIT,  # TOO_LARGE_STRING_SIZE
    158: errors.RESULT_LIMIT,  # TOO_MANY_ROWS
    191: errors.RESULT_LIMIT,  # SET_SIZE_LIMIT_EXCEEDED
    241: errors.RESULT_LIMIT,  # MEMORY_LIMIT_EXCEEDED
    290: errors.RESULT_LIMIT,  # LIMIT_EXCEEDED
    307: errors.RESULT_LIMIT,  # TOO_MANY_BYTES
    396: errors.RESULT_LIMIT,  # TOO_MANY_ROWS_OR_BYTES
    # A value that does not match the type of its placeholder, or is missing.
    456: errors.BAD_PARAMETER,  # UNKNOWN_QUERY_PARAMETER
    457: errors.BAD_PARAMETER,  # BAD_QUERY_PARAMETER
    # A string that is not SQL, or exceeds the parser's limits.
    62: errors.SQL_SYNTAX,  # SYNTAX_ERROR
    167: errors.SQL_SYNTAX,  # TOO_DEEP_AST
    168: errors.SQL_SYNTAX,  # TOO_BIG_AST
    229: errors.SQL_SYNTAX,  # QUERY_IS_TOO_LARGE
    306: errors.SQL_SYNTAX,  # TOO_DEEP_RECURSION
    718: errors.SQL_SYNTAX,  # TOO_SLOW_PARSING
    # Queries whose planning would take too long.
    162: errors.TOO_COMPLEX,  # TOO_DEEP_SUBQUERIES
    572: errors.TOO_COMPLEX,  # TOO_MANY_QUERY_PLAN_OPTIMIZATIONS
    394: errors.CANCELLED,  # QUERY_WAS_CANCELLED
    # Credentials.
    192: errors.AUTHENTICATION,  # UNKNOWN_USER
    193: errors.AUTHENTICATION,  # WRONG_PASSWORD
    194: errors.AUTHENTICATION,  # REQUIRED_PASSWORD
    195: errors.AUTHENTICATION,  # IP_ADDRESS_NOT_ALLOWED
    516: errors.AUTHENTICATION,  # AUTHENTICATION_FAILED
    # Overload.
    202: errors.BUSY,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203: errors.BUSY,  # NO_FREE_CONNECTION
    252: errors.BUSY,  # TOO_MANY_PARTS
    700: errors.BUSY,  # USER_SESSION_LIMIT_EXCEEDED
    745: errors.BUSY,  # SERVER_OVERLOADED
    749: errors.BUSY,  # TCP_CONNECTION_LIMIT_REACHED
    762: errors.BUSY,  # HTTP_CONNECTION_LIMIT_REACHED
    1019: errors.BUSY,  # QUERY_SLOT_ACQUISITION_TIMEOUT
    # Connections of the server to others, and to itself.
    209: errors.UNREACHABLE,  # SOCKET_TIMEOUT
    210: errors.UNREACHABLE,  # NETWORK_ERROR
    279: errors.UNREACHABLE,  # ALL_CONNECTION_TRIES_FAILED
    # The disk and its file system.
    243: errors.DISK_FULL,  # NOT_ENOUGH_SPACE
    24: errors.STORAGE,  # CANNOT_WRITE_TO_OSTREAM
    74: errors.STORAGE,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
    75: errors.STORAGE,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
    76: errors.STORAGE,  # CANNOT_OPEN_FILE
    77: errors.STORAGE,  # CANNOT_CLOSE_FILE
    87: errors.STORAGE,  # CANNOT_SEEK_THROUGH_FILE
    88: errors.STORAGE,  # CANNOT_TRUNCATE_FILE
    172: errors.STORAGE,  # CANNOT_CREATE_DIRECTORY
    204: errors.STORAGE,  # CANNOT_FSYNC
    214: errors.STORAGE,  # CANNOT_STATVFS
    294: errors.STORAGE,  # CANNOT_WRITE_TO_FILE
    400: errors.STORAGE,  # CANNOT_STAT
    424: errors.STORAGE,  # CANNOT_LINK
    425: errors.STORAGE,  # SYSTEM_ERROR
    458: errors.STORAGE,  # CANNOT_UNLINK
    531: errors.STORAGE,  # CANNOT_FSTAT
    566: errors.STORAGE,  # CANNOT_RMDIR
    586: errors.STORAGE,  # CANNOT_CREATE_FILE
    641: errors.STORAGE,  # CANNOT_APPEND_TO_FILE
    734: errors.STORAGE,  # CANNOT_WRITE_AFTER_BUFFER_CANCELED
    # Parts whose files are missing or altered.
    40: errors.DAMAGED,  # CHECKSUM_DOESNT_MATCH
    226: errors.DAMAGED,  # NO_FILE_IN_DATA_PART
    227: errors.DAMAGED,  # UNEXPECTED_FILE_IN_DATA_PART
    228: errors.DAMAGED,  # BAD_SIZE_OF_FILE_IN_DATA_PART
    246: errors.DAMAGED,  # CORRUPTED_DATA
    740: errors.DAMAGED,  # POTENTIALLY_BROKEN_DATA_PART
    # Faults of the engine or its machine, regardless of the statement.
    49: errors.ENGINE_INTERNAL,  # LOGICAL_ERROR
    173: errors.ENGINE_INTERNAL,  # CANNOT_ALLOCATE_MEMORY
    1001: errors.ENGINE_INTERNAL,  # STD_EXCEPTION
    1002: errors.ENGINE_INTERNAL,  # UNKNOWN_EXCEPTION
}
"""Our codes for the engine's error numbers. All other numbers become ENGINE."""

TOO_MANY_PARTS = 252
"""The engine's number for a table with too many parts, and for a block with rows of too many partitions."""
MEMORY_LIMIT = 241
"""The engine's number for a statement that exceeds its own memory limit, or that of its user or of the engine."""

OVERLOAD = frozenset(
    {
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        173,  # CANNOT_ALLOCATE_MEMORY
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        236,  # ABORTED
        MEMORY_LIMIT,
        TOO_MANY_PARTS,
        394,  # QUERY_WAS_CANCELLED
        411,  # PTHREAD_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        735,  # QUERY_WAS_CANCELLED_BY_CLIENT
        776,  # RESOURCE_LIMIT_EXCEEDED
        777,  # MEMORY_RESERVATION_KILLED
        778,  # MEMORY_RESERVATION_FAILED
        1017,  # ASYNC_INSERT_FLUSH_TIMEOUT
        1019,  # QUERY_SLOT_ACQUISITION_TIMEOUT
        1020,  # MEMORY_RESERVATION_ACQUISITION_TIMEOUT
    }
)
"""The engine's numbers for INSERTs that fail because of load: memory, merges, threads, cancellation."""
