import AuditTrail
import Foundation
import TransparencyLog
package import Vocabulary

/// A reader's own trust file: which log it believes, and whose cosignatures a head must have (C2SP tlog-policy).
struct TrustFile {
    let policy: WitnessPolicy

    init(_ file: URL) throws {
        let text = try GatewayFile.read(file, role: "trust file")
        do throws(LogError) { policy = try WitnessPolicy(parsing: text) } catch {
            throw GatewayError(.usage, error.publicDescription)
        }
    }
}

/// Between which sights of the witnesses an entry was written: after they had seen the log without it, and before they
/// had seen it with it. Neither time is the gateway's word.
package struct WitnessedInterval: Sendable, Equatable {
    package struct Sight: Sendable, Equatable {
        package let size: UInt64
        package let time: Timestamp
    }

    /// `nil`: no earlier head in the export is cosigned.
    package let after: Sight?
    /// `nil`: written since the last head that is cosigned.
    package let before: Sight?

    package var words: String {
        switch (after, before) {
        case (let after?, let before?):
            "between \(after.time) (witnesses saw \(after.size) entries) and \(before.time) (\(before.size) entries)"
        case (nil, let before?): "before \(before.time) (witnesses saw \(before.size) entries)"
        case (let after?, nil): "after \(after.time) (witnesses saw \(after.size) entries)"
        case (nil, nil): "unknown to witnesses"
        }
    }

    var json: JSON {
        func sight(_ sight: Sight?) -> JSON {
            sight.map { ["size": .integer(Int64($0.size)), "time": .string($0.time.description)] } ?? .null
        }
        return ["after": sight(after), "before": sight(before)]
    }
}

/// What an export's cosigned heads tell of time.
struct WitnessedTimes {
    /// Clocks of honest witnesses and gateways may differ by so much.
    private static let toleranceSeconds: Int64 = 300

    /// Who cosigned the head that everything is under, and when.
    let cosigners: [(witness: String, time: Timestamp)]
    /// The cosigned heads, by size.
    private let sights: [WitnessedInterval.Sight]

    /// Throws unless the last head has the cosignatures that `trust` asks for.
    /// - Parameter heads: by size, the last one being what everything is under.
    init(_ heads: [SignedCheckpoint], _ trust: WitnessPolicy) throws(LogError) {
        var sights: [WitnessedInterval.Sight] = []
        for head in heads {
            guard let time = try trust.timeSeen(head) else { continue }
            sights.append(WitnessedInterval.Sight(size: head.size, time: time))
        }
        guard let head = heads.last else { throw LogError(.incomplete, "the export has no signed head") }
        do throws(LogError) { cosigners = try trust.check(head) } catch {
            guard error.code == .unwitnessed, let newest = sights.last else { throw error }
            throw LogError(
                .unwitnessed, "\(error.publicDescription); the newest that has them is of size \(newest.size)")
        }
        self.sights = sights
    }

    /// When the entries of these indices were written.
    func interval(of indices: ClosedRange<UInt64>) -> WitnessedInterval {
        // The last head that holds none of them; the first that holds all.
        let none = sights.partitionPoint { $0.size > indices.lowerBound }
        let all = sights.partitionPoint { $0.size > indices.upperBound }
        return WitnessedInterval(
            after: none > 0 ? sights[none - 1] : nil, before: all < sights.count ? sights[all] : nil)
    }

    /// Throws when an entry states a time at which the witnesses had seen the log without it, or before which they had
    /// seen it: it was dated back or ahead.
    func check(_ time: Timestamp, of index: UInt64) throws(LogError) {
        let interval = interval(of: index...index)
        let isAfter = interval.after.map { $0.time.adding(seconds: -Self.toleranceSeconds) <= time } ?? true
        let isBefore = interval.before.map { time <= $0.time.adding(seconds: Self.toleranceSeconds) } ?? true
        guard isAfter, isBefore else {
            throw LogError(.wrongTime, "entry \(index) says \(time), but it was written \(interval.words)")
        }
    }
}
