//! Macros that pass their input on if this crate has that database; the derives cannot know its features.

#[cfg(feature = "sqlite")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_sqlite {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "sqlite"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_sqlite {
    ($($tokens:tt)*) => {};
}
#[cfg(feature = "mysql")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_mysql {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "mysql"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_mysql {
    ($($tokens:tt)*) => {};
}
#[cfg(feature = "postgres")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_postgres {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "postgres"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_postgres {
    ($($tokens:tt)*) => {};
}
// As above, for any connection, sync or async.
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_mysql_backend {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(any(feature = "mysql", feature = "async-mysql")))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_mysql_backend {
    ($($tokens:tt)*) => {};
}
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_postgres_backend {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(any(feature = "postgres", feature = "async-postgres")))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_postgres_backend {
    ($($tokens:tt)*) => {};
}
