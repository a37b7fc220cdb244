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
#[cfg(feature = "async-sqlite")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async_sqlite {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "async-sqlite"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async_sqlite {
    ($($tokens:tt)*) => {};
}
#[cfg(feature = "async-mysql")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async_mysql {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "async-mysql"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async_mysql {
    ($($tokens:tt)*) => {};
}
#[cfg(feature = "async-postgres")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async_postgres {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "async-postgres"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async_postgres {
    ($($tokens:tt)*) => {};
}
#[cfg(feature = "async")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "async"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_async {
    ($($tokens:tt)*) => {};
}
