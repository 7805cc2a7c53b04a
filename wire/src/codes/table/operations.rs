//! Codes of calls, the control plane, storage and configuration.

macro_rules! operations {
    ($($before:tt)*) => { codes! { $($before)*
        // --- upstream and availability -----------------------------------------------------------------------
        5001 UpstreamUnreachable (Upstream, BadGateway, later, Unreachable)
            "the service behind cannot be reached"
            "nobody listens at its address, or the connection broke"
            "check that it runs: countersign status";
        5002 UpstreamTimeout (Upstream, GatewayTimeout, later, Unreachable)
            "the service behind did not answer in time"
            "waiting is bounded everywhere"
            "look at its log, or raise the timeout of the route";
        5003 UpstreamProtocol (Upstream, BadGateway, later, Unreachable)
            "the service behind answered something that is not HTTP, or too much of it"
            "what cannot be read is not passed on"
            "look at the log of the service";
        5004 UpstreamIdentity (Upstream, BadGateway, never, Denied)
            "whoever answers at the address of the service is not that service"
            "its certificate names another identity, does not count, or was revoked"
            "see which check failed: countersign explain last";
        5005 UpstreamUnknown (Upstream, BadGateway, never, Usage)
            "no address is known for the service"
            "services are called by their registered name only"
            "register it: [[service]] in the configuration file";
        5006 Overloaded (Upstream, Unavailable, later, Unreachable)
            "too many requests are in flight"
            "queues are bounded, so that the system refuses instead of collapsing"
            "try again, or add capacity";
        5007 ShuttingDown (Upstream, Unavailable, later, Unreachable)
            "this process is ending"
            "requests in flight are finished, new ones go elsewhere"
            "repeat the request, it will meet another process";
        5008 Internal (Upstream, InternalError, never, CheckFailed)
            "something failed that should not have"
            "this is a defect or a broken machine, not your request"
            "look for the decision id in the log and report it";
        5009 UpstreamDown (Upstream, Unavailable, later, Unreachable)
            "no endpoint of the upstream is usable"
            "discovery names none, or checks and failed requests have taken out all of them"
            "see what the reason says of them; check dns, srv or file, and the health path by hand";
        5010 UpstreamFull (Upstream, Unavailable, later, Unreachable)
            "every endpoint of the upstream has as much to do as it may"
            "what waits without a bound takes the next one down with it, so the breaker refuses"
            "add endpoints, or raise the breaker setting that the reason names";
        5011 FilterUnanswered (Upstream, Unavailable, later, Unreachable)
            "a filter that has to be asked gave no answer"
            "what a filter guards is not let through unseen while it is away"
            "see what the reason says; is the filter running, and does its address in the configuration lead to it?";
        5101 CredentialAbsent (Upstream, Unavailable, later, Unreachable)
            "there is nothing to prove ourselves with to the service behind"
            "what is sent in this mode comes through the agent from the authority, and it did not come"
            "check that the agent reaches the authority: countersign check; see what is sent: countersign service list";
        5102 UserNotExchanged (Upstream, Unavailable, later, Unreachable)
            "the user's token could not be exchanged for the service behind"
            "a token for another hop never goes in its place, so the call was refused"
            "check that the authority's token service can be reached: countersign check";
        5103 UserRefused (Upstream, AccessDenied, never, Denied)
            "the token service refused to let this user go on to the service behind"
            "it sees each hop, and decides each by policy"
            "see why: countersign audit search --kind token_exchanged, and sts.cedar";
        5104 AnswerUnproven (Upstream, BadGateway, never, Denied)
            "the answer of the service behind does not prove who gave it to what"
            "in this mode answers are signed, and this one was not, or by another, or was changed"
            "look at the log of the service, and at what stands between";

        // --- control plane -----------------------------------------------------------------------------------
        6001 AuthorityUnreachable (System, Unavailable, later, Unreachable)
            "the authority cannot be reached"
            "it does not run, or another address is configured; credentials at hand stay valid until they expire"
            "countersign up, or compare --state-dir with the one that it was started with";
        6002 AgentUnreachable (System, Unavailable, later, Unreachable)
            "the agent's socket cannot be reached"
            "a workload gets its identity from the agent of its machine"
            "check SPIFFE_ENDPOINT_SOCKET and that the agent runs";
        6003 SnapshotStale (System, Unavailable, later, Unreachable)
            "the snapshot is older than its grace period"
            "revocations and policies may have changed since"
            "check that the agent reaches the authority: countersign check";
        6004 SnapshotSignature (System, Unavailable, never, CheckFailed)
            "the snapshot is not signed by a key of this authority"
            "somebody may be offering forged policies; the old snapshot stays"
            "look at the log of the agent, and who else can write to its socket";
        6005 SnapshotBackwards (System, Unavailable, never, CheckFailed)
            "the snapshot is older than the one at hand"
            "an attacker could bring back a revoked identity that way; the old snapshot stays"
            "after a restore from backup the authority must begin a new epoch";
        6006 SnapshotCritical (System, Unavailable, never, CheckFailed)
            "the snapshot needs something that this version does not understand"
            "ignoring it could permit what it forbids; the old snapshot stays"
            "update this binary";
        6007 LedgerRolledBack (System, InternalError, never, CheckFailed)
            "the ledger is shorter than it was"
            "events that were acknowledged are gone: a restore, or somebody removed them"
            "countersign audit verify --head SAVED names the place; restore the newer copy";
        6008 LedgerForked (System, InternalError, never, CheckFailed)
            "the ledger is another one than it was"
            "at the same size it has another hash: history was rewritten"
            "countersign audit verify --head SAVED names the place; keep both copies as evidence";
        6009 LedgerBroken (System, InternalError, never, CheckFailed)
            "an event of the ledger does not fit the chain"
            "it was changed, removed or moved"
            "countersign audit verify names the first bad event; keep the file as evidence";
        6010 LedgerGap (System, InternalError, never, CheckFailed)
            "events of a writer are missing"
            "a writer lost its spool, or somebody removed a part of it"
            "the gap is recorded; look at the writer's log around that time";
        6011 VersionMismatch (System, Unavailable, never, CheckFailed)
            "agent and authority speak no common version"
            "each names the oldest and the newest version that it speaks"
            "update the older one";
        6012 NotReady (System, Unavailable, later, Unreachable)
            "the process is not ready yet"
            "it waits for an identity or a snapshot"
            "wait, or see what it waits for: /readyz on its admin listener";
        6013 EvidenceUnwritable (System, Unavailable, later, CheckFailed)
            "the ledger cannot be written"
            "a refusal or an issuance must be durable before it is answered"
            "free disk space, and check the owner of the state directory";
        6014 ClockSteppedBack (System, Unavailable, never, CheckFailed)
            "the clock has stepped back"
            "what had expired must not become valid again"
            "repair time synchronisation, then restart";
        6015 PeerWaiting (System, Unavailable, later, Unreachable)
            "something did not start in time"
            "every wait has a limit"
            "look at the log that is named";
        6016 IssuerUnreachable (System, Unavailable, later, Unreachable)
            "the keys of a token's issuer are not known"
            "its tokens can be verified only by the keys that it publishes, and those at hand are too old or none"
            "see the gateway's log for what the issuer answered, and whether it can be reached from there";

        // --- store and keys ----------------------------------------------------------------------------------
        7001 MasterKeyMissing (System, InternalError, never, Usage)
            "the master key is not there"
            "the database holds keys that only it can open, so nothing was made and nothing changed"
            "put the key file back, or set authority.master_key to where it is";
        7002 MasterKeyWrong (System, InternalError, never, Usage)
            "the master key does not open this database"
            "it is the key of another deployment, so nothing was made and nothing changed"
            "find the key file that belongs to this state directory";
        7003 MasterKeyUnreadable (System, InternalError, never, Usage)
            "the master key file cannot be used"
            "it is damaged, or readable by group or others"
            "restore it from its backup, then chmod 600";
        7004 SealedKeyInvalid (System, InternalError, never, Usage)
            "a sealed key does not open"
            "it was moved from another row or changed: its seal binds trust domain, purpose, row and version"
            "restore the database from its backup";
        7005 DatabaseUnreachable (System, Unavailable, later, Unreachable)
            "the database cannot be opened"
            "the file or server is not there, or may not be used"
            "check authority.database, and that the server runs";
        7006 DatabaseNotDurable (System, InternalError, never, Usage)
            "the database would not keep what it acknowledges"
            "synchronous=FULL (SQLite) or synchronous_commit=on (PostgreSQL) does not hold on a connection"
            "remove the setting that weakens it from the server or the connection URL";
        7007 DatabaseNewer (System, InternalError, never, Usage)
            "the database was migrated by a newer version"
            "this version does not know what the newer one stores"
            "run the newer version";
        7008 DatabaseBusy (System, Unavailable, later, Unreachable)
            "the database did not answer in time"
            "another process holds it, or it is overloaded; waits are bounded"
            "try again; a second authority on one SQLite file is not possible, use PostgreSQL";
        7009 DatabaseCorrupt (System, InternalError, never, CheckFailed)
            "the database holds something that cannot be read"
            "a row does not have the form that this version wrote"
            "restore the database from its backup";
        7010 TrustDomainMismatch (System, InternalError, never, Usage)
            "the database belongs to another trust domain"
            "a state directory has one trust domain for its whole life"
            "use another --state-dir, or the trust domain of this one";

        // --- configuration and command line ------------------------------------------------------------------
        8001 ConfigUnreadable (System, InternalError, never, Usage)
            "the configuration file cannot be read"
            "it is not there, or may not be read"
            "name it with --config, or run countersign up";
        8002 ConfigSyntax (System, InternalError, never, Usage)
            "the configuration file is not TOML"
            "a part of it cannot be understood, so none of it is used"
            "correct the line that is named";
        8003 ConfigUnknownKey (System, InternalError, never, Usage)
            "the configuration file has an unknown key"
            "a typo must not silently turn a protection off"
            "use the suggested key, or remove it";
        8004 ConfigValue (System, InternalError, never, Usage)
            "a value in the configuration file is not acceptable"
            "each key has a form or a range"
            "correct the key that is named";
        8005 AddressInUse (System, InternalError, never, Usage)
            "a port or socket is in use"
            "another process listens there"
            "stop it, or configure another address";
        8006 CleartextExposed (System, InternalError, never, Usage)
            "plain HTTP would be reachable from other machines"
            "tokens would cross the network in the clear"
            "listen on 127.0.0.1, or use listen_tls";
        8007 Usage (System, InvalidRequest, never, Usage)
            "the command cannot be understood"
            "an argument is missing, unknown, or contradicts another"
            "countersign help, or COMMAND --help";
        8008 CheckFailed (System, InternalError, never, CheckFailed)
            "a check of the deployment failed"
            "something is not as it should be"
            "countersign check says what and how to repair it";
        8009 FileExposed (System, InternalError, never, Usage)
            "a secret file can be read by group or others"
            "whoever reads it becomes its owner"
            "chmod 600 the file, and 700 its directory";
        8010 StateDirectory (System, InternalError, never, Usage)
            "the state directory cannot be used"
            "it is not there, not writable, or belongs to somebody else"
            "choose another one with --state-dir, or correct its owner";
        8011 InsecureSetting (System, InternalError, never, Usage)
            "an insecure setting is on"
            "it exists for measuring and migration, and protects nobody"
            "remove it before real traffic";
    }};
}
