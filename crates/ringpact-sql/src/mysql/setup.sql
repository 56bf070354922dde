-- One row for each committed branch, until its coordinator says that the transaction has ended.
CREATE TABLE IF NOT EXISTS ringpact_marker (
    id BINARY(48) NOT NULL PRIMARY KEY,
    position BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB;
-- For which coordinator and epoch each connection works.
CREATE TABLE IF NOT EXISTS ringpact_session (
    id BINARY(16) NOT NULL PRIMARY KEY,
    participant BINARY(16) NOT NULL,
    coordinator BINARY(16) NOT NULL,
    epoch BIGINT UNSIGNED NOT NULL,
    fenced BOOLEAN NOT NULL,
    KEY (participant, coordinator, epoch)
) ENGINE = InnoDB;
-- The last life of each coordinator that was met.
CREATE TABLE IF NOT EXISTS ringpact_coordinator (
    participant BINARY(16) NOT NULL,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    log BINARY(16) NOT NULL,
    epoch BIGINT UNSIGNED NOT NULL,
    position BIGINT UNSIGNED NOT NULL,
    replaces BINARY(16) NOT NULL,
    after_epoch BIGINT UNSIGNED NOT NULL,
    after_position BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (participant, name)
) ENGINE = InnoDB;
-- What has become of each branch of a service with tables (`open_tables`), in the same transaction as its work.
-- state: 1 reserved, 2 doomed, 3 promised, 4 confirmed, 5 cancelled. The refusal is text in UTF-8.
CREATE TABLE IF NOT EXISTS ringpact_branch (
    participant VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    coordinator VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    epoch BIGINT UNSIGNED NOT NULL,
    sequence BIGINT UNSIGNED NOT NULL,
    state TINYINT UNSIGNED NOT NULL,
    position BIGINT UNSIGNED NOT NULL,
    works LONGBLOB NOT NULL,
    refusal BLOB,
    PRIMARY KEY (participant, coordinator, epoch, sequence)
) ENGINE = InnoDB;
