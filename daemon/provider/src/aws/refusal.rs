//! What AWS's no means, by its code; its words and the request id go along.

use headstart_clouds::call::{CallError, Said};
use headstart_core::offer::OfferingKey;
use headstart_transfer::chain;

use super::quota;
use crate::Refusal;

/// What an error means. `asked` is the offering, for a purchase.
pub(super) fn refusal(error: &CallError, asked: Option<&OfferingKey>) -> Refusal {
    match error {
        CallError::Throttled { wait, .. } => Refusal::Throttled { wait: *wait },
        CallError::Refused { api, said } => refused(api, said, asked, error.to_string()),
        CallError::NoCredentials { .. } => Refusal::Forbidden {
            permission: "credentials".to_owned(),
            said: error.to_string(),
        },
        CallError::Net { .. } | CallError::Failed { .. } | CallError::Unreadable { .. } => {
            Refusal::Other { said: chain(error) }
        }
    }
}

fn refused(api: &str, from: &Said, asked: Option<&OfferingKey>, said: String) -> Refusal {
    let wrong = |field: &str, fix: &str| Refusal::Misconfigured {
        field: field.to_owned(),
        said: format!("{said}; {fix}"),
    };
    let forbidden = |permission: &str| Refusal::Forbidden {
        permission: permission.to_owned(),
        said: said.clone(),
    };
    let words = from.message.as_str();
    match from.code.as_str() {
        "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientFreeAddressesInSubnet"
        | "ReservationCapacityExceeded"
        | "SpotMaxPriceTooLow"
        | "UnfulfillableCapacity"
        // The type in this zone.
        | "Unsupported" => Refusal::OutOfCapacity { said },
        "VcpuLimitExceeded" | "MaxSpotInstanceCountExceeded" | "InstanceLimitExceeded" => {
            let quota = asked.map(quota);
            let quota = quota.map_or_else(
                || from.code.clone(),
                |(name, code)| format!("{name} ({code})"),
            );
            Refusal::Quota { quota, said }
        }
        code if code.ends_with("LimitExceeded") || code == "MaxFleetCountExceeded" => {
            Refusal::Quota {
                quota: code.to_owned(),
                said,
            }
        }
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            forbidden(&action(words).unwrap_or_else(|| own_action(api)))
        }
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => {
            forbidden("iam:CreateServiceLinkedRole for spot.amazonaws.com")
        }
        "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => {
            forbidden("valid credentials (and a clock that is right)")
        }
        "Blocked" | "OptInRequired" | "PendingVerification" => {
            forbidden("an account that may use EC2 in this region")
        }
        code if code.starts_with("InvalidAMIID") => wrong(
            "spec.provider.imageId",
            "name an image that is in this region, or none for the newest",
        ),
        code if code.starts_with("InvalidSubnet") => {
            wrong("spec.provider.subnets", "name subnets that are there")
        }
        code if code.starts_with("InvalidGroup") || code.starts_with("InvalidSecurityGroup") => {
            let fix = "name security groups of the cluster's VPC";
            wrong("spec.provider.securityGroups", fix)
        }
        code if code.starts_with("InvalidSnapshot") => {
            let fix = "name a snapshot that is in this region";
            wrong("spec.provider.volume.snapshotId", fix)
        }
        "InvalidBlockDeviceMapping" => {
            let fix = "it is at least as large as the image's or snapshot's";
            wrong("spec.provider.volume", fix)
        }
        "InvalidParameterValue" | "InvalidParameterCombination" | "InvalidParameter" => {
            let lower = words.to_ascii_lowercase();
            let of = |word: &str| lower.contains(word);
            match () {
                () if of("instanceprofile") || of("instance profile") => {
                    let fix = "name an instance profile that is there";
                    wrong("spec.provider.instanceProfile", fix)
                }
                () if of("instancetype") || of("instance type") => {
                    wrong("offering", "this region has no such type, or not with this image")
                }
                () if of("user data") || of("userdata") => {
                    wrong("spec.provider", "what nodes are told is too long: fewer labels")
                }
                () if of("security group") => {
                    wrong("spec.provider.securityGroups", "name those of the subnet's VPC")
                }
                () if of("volume") || of("throughput") || of("iops") => {
                    wrong("spec.provider.volume", "see what gp3 allows")
                }
                () => wrong("spec.provider", "EC2 says which value"),
            }
        }
        "ResourceNotFoundException" if api == "DescribeCluster" => {
            wrong("provider.cluster", "name a cluster of EKS in this region")
        }
        "ParameterNotFound" => wrong(
            "spec.provider.image",
            "EKS has no such image for this version and architecture: write imageId",
        ),
        "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue" => {
            wrong("provider.interruptionQueue", "write the URL of a queue that is there")
        }
        _ => Refusal::Other { said },
    }
}

/// The action that a message says is missing: "… is not authorized to perform: iam:PassRole on …".
fn action(words: &str) -> Option<String> {
    let (_, after) = words.rsplit_once("perform: ")?;
    let action = after.split_whitespace().next()?;
    let action = action.trim_end_matches(['.', ',']);
    action.contains(':').then(|| action.to_owned())
}

fn own_action(api: &str) -> String {
    let service = match api {
        "DescribeCluster" => "eks",
        "GetParameter" => "ssm",
        "GetProducts" => "pricing",
        "GetServiceQuota" => "servicequotas",
        "ReceiveMessage" | "DeleteMessage" | "GetQueueAttributes" => "sqs",
        _ => "ec2",
    };
    format!("{service}:{api}")
}
