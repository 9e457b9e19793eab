//! The migration of a file of an earlier version.

use rusqlite::{Connection as SqliteConnection, TransactionBehavior, params_from_iter};

use super::rows::origin_values;
use super::schema::{PRESENT, Schema};
use crate::edge::files::FileOrigin;

/// Gives a file of an earlier version the present tables, in one transaction: a daemon that is
/// killed meanwhile leaves the file of the earlier version.
pub(super) fn migrate(
    connection: &mut SqliteConnection,
    from: &Schema,
    origin: FileOrigin,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(&format!(
        "ALTER TABLE meta RENAME TO old_meta;
         ALTER TABLE topics RENAME TO old_topics;
         ALTER TABLE events RENAME TO old_events;
         {tables};
         INSERT INTO topics {topics};
         INSERT INTO events SELECT revision, kind, reason, topic_name, info FROM old_events;",
        tables = PRESENT.tables.join(";"),
        topics = from.read_topics.replace("FROM topics", "FROM old_topics"),
    ))?;
    transaction.execute(
        "INSERT INTO meta SELECT id, epoch, revision, boot_id, pid_namespace, ?1, ?2, ?3 \
         FROM old_meta",
        params_from_iter(origin_values(origin)),
    )?;
    transaction.execute_batch(&format!(
        "DROP TABLE old_meta; DROP TABLE old_topics; DROP TABLE old_events;
         PRAGMA user_version = {}",
        PRESENT.version
    ))?;
    transaction.commit()
}
