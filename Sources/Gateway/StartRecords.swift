import AuditTrail
import Foundation
import Sealing
import TransparencyLog
import Vocabulary

extension Gateway {
    /// What this program calls itself.
    package static let programVersion = "0.1.0"
    private static let clockCheckSeconds: Int64 = 3600

    /// Records, at a start, with which configuration the gateway works from here on and what is known of its clock:
    /// the first when it differs from what was recorded last, the second at most once an hour or when the clock is no
    /// longer, or again, kept by a time server.
    static func recordStart(_ ledger: Ledger, _ settings: Home.Settings, _ clock: GuardedClock) throws {
        let configuration: [String: JSON] = [
            "program": .string(programVersion), "settings": .string(settings.digest.hex),
            "auditors": .integer(Int64(settings.auditors.count)),
        ]
        if ledger.records(of: .configurationStated).last?.detail != .object(configuration) {
            try ledger.record(
                Event(.configurationStated, .done).with { $0.detail = configuration }, in: .gateway,
                key: ledger.freshKey("configuration"))
        }
        let state = ClockState.read()
        let last = ledger.records(of: .clockChecked).last
        let now = clock.now()
        guard
            last.map({ $0.time.adding(seconds: clockCheckSeconds) <= now }) ?? true
                || last?.detail["synchronised"]?.boolValue != state.isSynchronised || clock.behindMilliseconds > 0
        else { return }
        try ledger.record(
            Event(.clockChecked, clock.behindMilliseconds > Ledger.clockBehindMillisecondsMax ? .failed : .done).with {
                $0.detail = [
                    "synchronised": .bool(state.isSynchronised),
                    "offset_nanoseconds": .integer(state.offsetNanoseconds),
                    "error_microseconds_max": .integer(state.errorMicrosecondsMax),
                    "behind_milliseconds": .integer(min(clock.behindMilliseconds, JSON.integerMax)),
                ]
                if clock.behindMilliseconds > Ledger.clockBehindMillisecondsMax { $0.reasons = ["clock-behind"] }
            }, in: .gateway, key: ledger.freshKey("clock"))
    }
}

/// What the kernel knows of its clock from the time daemon that keeps it.
private struct ClockState {
    let isSynchronised: Bool
    /// What the daemon still has to correct.
    let offsetNanoseconds: Int64
    let errorMicrosecondsMax: Int64

    /// Unknown is not synchronised.
    static func read() -> ClockState {
        let unknown = ClockState(isSynchronised: false, offsetNanoseconds: 0, errorMicrosecondsMax: 0)
        typealias Adjtimex = @convention(c) (UnsafeMutableRawPointer) -> Int32
        // The C library's module map leaves <sys/timex.h> out.
        guard let symbol = dlsym(nil, "adjtimex") else { return unknown }
        // Safe: this is the C library's own function of that name and signature.
        let adjtimex = unsafeBitCast(symbol, to: Adjtimex.self)
        // `struct timex` of 64-bit Linux: modes 0 (only reading), offset at 8, maxerror at 24, status at 40; 208 bytes.
        return withUnsafeTemporaryAllocation(byteCount: 256, alignment: 8) { bytes in
            bytes.initializeMemory(as: UInt8.self, repeating: 0)
            let result = adjtimex(bytes.baseAddress!)
            let status = bytes.load(fromByteOffset: 40, as: Int32.self)
            let unsynchronised: Int32 = 0x0040
            let nanoseconds: Int32 = 0x2000
            guard result >= 0 else { return unknown }
            let offset = Int64(bytes.load(fromByteOffset: 8, as: Int.self))
            return ClockState(
                isSynchronised: result != 5 && status & unsynchronised == 0,
                offsetNanoseconds: status & nanoseconds != 0 ? offset : offset * 1000,
                errorMicrosecondsMax: Int64(bytes.load(fromByteOffset: 24, as: Int.self)))
        }
    }
}

extension Home.Settings {
    /// Trail, readers and the anchor's place, by hash.
    fileprivate var digest: Digest {
        let json: JSON = [
            "trail": .string(trail.description), "anchor": .string(anchor.path),
            "auditors": .array(auditors.map { .string(Hex.encode($0.bytes)) }),
            "recovery": .string(Hex.encode(recovery.bytes)),
        ]
        return SHA256.hash(json.canonical)
    }
}
