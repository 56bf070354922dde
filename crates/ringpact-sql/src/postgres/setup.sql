-- What a participant needs in a database. It may be run again at any time, by the role that ran it first.
SELECT pg_advisory_xact_lock(hashtextextended('ringpact set-up', 0));
CREATE SCHEMA IF NOT EXISTS ringpact;

-- Version 1 had four columns in its markers, a promise with six arguments, and lives without a tag.
DO $ringpact$ BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('ringpact.marker') AND attname = 'sequence') THEN
        DROP TABLE ringpact.marker;
    END IF;
END $ringpact$;
DROP FUNCTION IF EXISTS ringpact.promise(text, text, text, numeric, numeric, boolean);

-- A branch's marker: written in the branch's own transaction, so it is there exactly if the branch is committed.
-- Its key is the tag that the branch's session has as its application_name: one column that is sent and compared quickly.
CREATE TABLE IF NOT EXISTS ringpact.marker (branch text COLLATE "C" PRIMARY KEY);

-- Which coordinators were met, and which log each of them decides in.
CREATE TABLE IF NOT EXISTS ringpact.life (
    participant text COLLATE "C" NOT NULL,
    coordinator text COLLATE "C" NOT NULL,
    log bytea NOT NULL,
    epoch numeric(20) NOT NULL,
    position numeric(20) NOT NULL,
    -- What the tags of this life's branches begin with.
    tag text COLLATE "C" NOT NULL,
    PRIMARY KEY (participant, coordinator)
);
-- Rows of version 1 have an empty one until the coordinator is opened again. There was no last resource then.
ALTER TABLE ringpact.life ADD COLUMN IF NOT EXISTS tag text COLLATE "C" NOT NULL DEFAULT '';

-- What has become of each branch of a service with tables (`open_tables`), in the same transaction as the branch's work.
-- state: 1 reserved, 2 doomed, 3 promised, 4 confirmed, 5 cancelled. The refusal is text in UTF-8: convert_from(refusal, 'UTF8').
CREATE TABLE IF NOT EXISTS ringpact.branch (
    participant text COLLATE "C" NOT NULL,
    coordinator text COLLATE "C" NOT NULL,
    epoch numeric(20) NOT NULL,
    sequence numeric(20) NOT NULL,
    state smallint NOT NULL CHECK (state BETWEEN 1 AND 5),
    position numeric(20) NOT NULL,
    works bytea NOT NULL,
    refusal bytea,
    PRIMARY KEY (participant, coordinator, epoch, sequence)
);

-- Writes the marker, or stops the message that it comes in, so that the PREPARE or COMMIT behind it does not run.
-- alone: true before a COMMIT, false before a PREPARE, null before a COMMIT of the branch's row, which needs no marker.
CREATE OR REPLACE FUNCTION ringpact.promise(tag text, alone boolean)
RETURNS void LANGUAGE plpgsql AS $ringpact$
BEGIN
    -- SET LOCAL ends with its transaction. PREPARE and COMMIT would succeed without one, and do nothing.
    IF current_setting('application_name') <> tag THEN
        RAISE EXCEPTION 'the transaction of this branch is over' USING ERRCODE = 'RP001',
            HINT = 'Leave COMMIT, ROLLBACK and application_name to the participant.';
    END IF;
    -- Otherwise the next branch on this connection would not be protected from a BEGIN that fails.
    IF current_setting('ringpact.read_only', true) = 'on' AND current_setting('default_transaction_read_only') = 'off' THEN
        RAISE EXCEPTION 'the work has changed default_transaction_read_only' USING ERRCODE = 'RP005',
            HINT = 'Use SET TRANSACTION, which holds for one transaction.';
    END IF;
    -- A promise and its commit are synced in any case, a COMMIT is not.
    IF alone IS DISTINCT FROM false AND current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF alone IS NULL THEN
        RETURN;
    END IF;
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        IF alone THEN
            RETURN;
        END IF;
        IF current_setting('transaction_isolation') <> 'serializable' THEN
            RAISE EXCEPTION 'the branch has changed nothing' USING ERRCODE = 'RP002';
        END IF;
        -- What a serializable transaction has read counts only once it is certified, which a promise does.
        IF current_setting('transaction_read_only') = 'on' THEN
            RAISE EXCEPTION 'a serializable branch in READ ONLY mode cannot promise' USING ERRCODE = 'RP003',
                HINT = 'Leave out READ ONLY, or use REPEATABLE READ.';
        END IF;
    END IF;
    -- A last resource that has answered a later life that it has not committed must never commit. The life is noted before the
    -- answer, and the sessions that were there by then are ended. A tag begins with 26 characters for the two
    -- names, and 16 for the epoch.
    IF alone AND EXISTS (
        SELECT FROM ringpact.life AS met WHERE met.tag > promise.tag AND left(met.tag, 26) = left(promise.tag, 26)
        AND left(met.tag, 42) <> left(promise.tag, 42)
    ) THEN
        RAISE EXCEPTION 'the coordinator of this branch was opened again' USING ERRCODE = 'RP004',
            HINT = 'End the process of the coordinator''s earlier life.';
    END IF;
    INSERT INTO ringpact.marker VALUES (tag);
END
$ringpact$;

-- Writes the marker and checks nothing: connections with prepared statements check before they call it.
CREATE OR REPLACE FUNCTION ringpact.mark(tag text)
RETURNS void LANGUAGE plpgsql AS $ringpact$
BEGIN
    INSERT INTO ringpact.marker VALUES (tag);
END
$ringpact$;

CREATE OR REPLACE FUNCTION ringpact.setup_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 3';
