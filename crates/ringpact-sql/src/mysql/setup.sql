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
