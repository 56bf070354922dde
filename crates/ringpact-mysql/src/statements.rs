//! The query methods of [`MySqlBranch`](crate::MySqlBranch) and [`MySqlTx`](crate::MySqlTx).

/// Makes the methods of [`mysql_async::prelude::Queryable`] out of a method `run`, which takes whether
/// the statement is a plain read, and out of `conn`, which returns the connection. A type that gave the
/// connection away would let callers begin and end transactions.
macro_rules! query_methods {
    () => {
        /// Carries out a statement and returns the rows of its first result.
        ///
        /// # Errors
        ///
        /// The database's error; [`MySqlError::Over`] after an earlier one. So it is for all methods.
        pub async fn query<T>(&mut self, statement: impl AsQuery) -> Result<Vec<T>, MySqlError>
        where
            T: FromRow + Send + 'static,
        {
            let sql = statement.as_query().into_owned();
            self.run(is_plain_read(&sql), |conn| conn.query(sql)).await
        }

        /// Like [`query`](Self::query), and converts each row.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn query_map<T, U>(
            &mut self,
            statement: impl AsQuery,
            convert: impl FnMut(T) -> U,
        ) -> Result<Vec<U>, MySqlError>
        where
            T: FromRow + Send + 'static,
        {
            Ok(self.query(statement).await?.into_iter().map(convert).collect())
        }

        /// Carries out a statement and returns the first row of its first result.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn query_first<T>(&mut self, statement: impl AsQuery) -> Result<Option<T>, MySqlError>
        where
            T: FromRow + Send + 'static,
        {
            let sql = statement.as_query().into_owned();
            self.run(is_plain_read(&sql), |conn| conn.query_first(sql)).await
        }

        /// Carries out a statement and drops its result.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn query_drop(&mut self, statement: impl AsQuery) -> Result<(), MySqlError> {
            let sql = statement.as_query().into_owned();
            self.run(is_plain_read(&sql), |conn| conn.query_drop(sql)).await
        }

        /// Carries out a statement with parameters and returns the rows of its first result.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn exec<T>(
            &mut self,
            statement: impl AsQuery,
            params: impl Into<Params>,
        ) -> Result<Vec<T>, MySqlError>
        where
            T: FromRow + Send + 'static,
        {
            let (sql, params) = (statement.as_query().into_owned(), params.into());
            self.run(is_plain_read(&sql), |conn| conn.exec(sql, params)).await
        }

        /// Like [`exec`](Self::exec), and converts each row.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn exec_map<T, U>(
            &mut self,
            statement: impl AsQuery,
            params: impl Into<Params>,
            convert: impl FnMut(T) -> U,
        ) -> Result<Vec<U>, MySqlError>
        where
            T: FromRow + Send + 'static,
        {
            Ok(self.exec(statement, params).await?.into_iter().map(convert).collect())
        }

        /// Carries out a statement with parameters and returns the first row of its first result.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn exec_first<T>(
            &mut self,
            statement: impl AsQuery,
            params: impl Into<Params>,
        ) -> Result<Option<T>, MySqlError>
        where
            T: FromRow + Send + 'static,
        {
            let (sql, params) = (statement.as_query().into_owned(), params.into());
            self.run(is_plain_read(&sql), |conn| conn.exec_first(sql, params)).await
        }

        /// Carries out a statement with parameters and drops its result.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn exec_drop(
            &mut self,
            statement: impl AsQuery,
            params: impl Into<Params>,
        ) -> Result<(), MySqlError> {
            let (sql, params) = (statement.as_query().into_owned(), params.into());
            self.run(is_plain_read(&sql), |conn| conn.exec_drop(sql, params)).await
        }

        /// Carries out a statement that changes rows once for each set of parameters.
        ///
        /// # Errors
        ///
        /// As for [`query`](Self::query).
        pub async fn exec_batch<P: Into<Params>>(
            &mut self,
            statement: impl AsQuery,
            params: impl IntoIterator<Item = P>,
        ) -> Result<(), MySqlError> {
            let sql = statement.as_query().into_owned();
            let params: Vec<Params> = params.into_iter().map(Into::into).collect();
            self.run(false, |conn| conn.exec_batch(sql, params)).await
        }

        /// Returns the value that the last statement gave to an `AUTO_INCREMENT` column, if it gave one.
        #[must_use]
        pub fn last_insert_id(&self) -> Option<u64> {
            self.conn().and_then(mysql_async::Conn::last_insert_id)
        }

        /// Returns the number of rows that the last statement has changed.
        #[must_use]
        pub fn affected_rows(&self) -> u64 {
            self.conn().map_or(0, mysql_async::Conn::affected_rows)
        }
    };
}

pub(crate) use query_methods;

/// Whether a statement can only read, unless it calls a function that writes. Locks that a read takes
/// must stay until the transaction ends, so locking reads do not count.
pub(crate) fn is_plain_read(sql: &[u8]) -> bool {
    let Ok(sql) = std::str::from_utf8(sql) else { return false };
    let mut words = sql.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
        && !sql.contains([';', '#'])
        && !sql.contains("/*")
        && !sql.contains("--")
        && !words.any(|word| ["for", "lock", "into"].iter().any(|locking| word.eq_ignore_ascii_case(locking)))
}

#[cfg(test)]
mod tests {
    use super::is_plain_read;

    #[test]
    fn only_a_plain_select_is_taken_for_a_read() {
        for read in ["SELECT 1", "  select *\nfrom t", "SELECT(1)", "SELECT before_it FROM t"] {
            assert!(is_plain_read(read.as_bytes()), "{read}");
        }
        for other in [
            "INSERT INTO t VALUES (1)",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM t LOCK IN SHARE MODE",
            "SELECT 1 INTO @x",
            "SELECT 1; DELETE FROM t",
            "SELECT /*!50000 1 */",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "",
        ] {
            assert!(!is_plain_read(other.as_bytes()), "{other}");
        }
    }
}
